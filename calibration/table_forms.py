"""How tables in int8 are written into a graph: one form for ONNX alone, one that suits engines too.

`INT8`: rows of words are read by `Gather`, cast, times the scale of the row; position tables are
int8 with a Cast and a Mul that a runtime folds when it loads them. TensorRT refuses both:
"Quantized constant is only allowed before DQ". `PACKED`: words as `pack` stores them, which every
reader of ONNX takes, and positions in fp16 with a Cast. docs/quantization.md has the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration import initializers
from calibration.formats import Floats, Stored
from calibration.tables import POSITIONS, Table, quantized_rows, row_scale

_FLOAT = ir.DataType.FLOAT
_HALF = 65504.0
"""Largest number of fp16: a table that exceeds it stays in fp32."""


class TableForm(str, Enum):
    """How word embeddings are stored; the formats of position tables follow."""

    INT8 = "int8"
    PACKED = "int8x4"

    @property
    def positions(self) -> str:
        return "int8" if self is TableForm.INT8 else "fp16"


def store_tables(model: ir.Model, tables: Sequence[Table], form: TableForm) -> dict[str, str]:
    """Quantize tables of an fp32 graph in place; they are quantized when they are written.

    The format of each, "int8" or "fp16", by the name that its fp32 initializer had.

    Raises:
        RuntimeError: a table is not in the graph, or is read in another way: a defect of ours.
    """
    stored = {}
    for table in tables:
        for weight in table.weights:
            place = _Place(model, weight)
            if table.name != POSITIONS:
                _store_words(place, form)
                stored[weight] = "int8"
            elif form is TableForm.INT8 or np.abs(initializers.read(model, weight)).max() <= _HALF:
                _store_positions(place, form)
                stored[weight] = form.positions
    return stored


def pack(stored: NDArray[np.int8]) -> NDArray[np.int32]:
    """int8 `(V, E)` -> int32 `(V, ceil(E / 4))`: column `j` has those of four quarters of a row.

    They are digits to the base 256: the first three quarters biased by 128, the last one, the
    highest digit, signed. Rows are filled up with zeros.
    """
    quarter = -(-stored.shape[1] // 4)
    digits = np.zeros((len(stored), 4 * quarter), np.int32)
    digits[:, : stored.shape[1]] = stored
    first, second, third, last = np.split(digits, 4, axis=1)
    packed: NDArray[np.int32] = last << 24
    for shift, part in ((16, third), (8, second), (0, first)):
        packed += (part + 128) << shift
    return packed


class _Place:
    """The nodes of a graph that read the fp32 initializer `name`, and nodes put before one."""

    def __init__(self, model: ir.Model, name: str) -> None:
        value = model.graph.initializers.get(name)
        uses = [] if value is None else list(value.uses())
        if value is None or value.const_value is None or not uses:
            raise RuntimeError(f"the graph has no table {name} that a node reads")
        self.model, self.name, self.value = model, name, value
        self.readers = {usage.node.op_type: usage.node for usage in uses}
        if len(self.readers) != len(uses):
            raise RuntimeError(f"several nodes of a kind read {name}")
        self.node, self.index = uses[0].node, uses[0].idx
        self.shape: tuple[int, ...] = tuple(value.const_value.shape.numpy())
        self.count = 0

    def stored(
        self,
        ending: str,
        function: Callable[[Floats], Stored],
        dtype: ir.DataType,
        width: int | None = None,
    ) -> ir.Value:
        """A function of the table, its last axis `width` long."""
        shape = self.shape if width is None else (*self.shape[:-1], width)
        name = f"{self.name}{ending}"
        return initializers.convert(self.model, self.name, function, dtype, name, shape)

    def number(self, value: int, dtype: ir.DataType = _FLOAT, rank: int = 0) -> ir.Value:
        """A constant."""
        name = f"{self.name}.{dtype.name.lower()}.{value}"
        known = self.model.graph.initializers.get(name)
        if known is not None:
            return known
        return initializers.add(self.model, name, np.full((1,) * rank, value, dtype.numpy()))

    def replace(self, node: ir.Node, value: ir.Value) -> None:
        """Let `value` take the place of what a node gives, with its name."""
        found = node.outputs[0]
        value.shape, name = found.shape, found.name
        found.replace_all_uses_with(value)
        found.name, value.name = f"{self.name}.{node.op_type}.whole", name

    def op(
        self, kind: str, *inputs: ir.Value | None, dtype: ir.DataType = _FLOAT, **attributes: int
    ) -> ir.Value:
        node = ir.node(kind, inputs, attributes, name=f"{self.name}.{kind}.{self.count}")
        self.count += 1
        output = node.outputs[0]
        output.name, output.type = f"{node.name}.0", ir.TensorType(dtype)
        self.model.graph.insert_before(self.node, [node])
        return output


def _store_words(place: _Place, form: TableForm) -> None:
    if not {"Gather"} <= place.readers.keys() <= {"Gather", "Transpose"}:
        raise RuntimeError(f"the graph reads {place.name} with {', '.join(place.readers)}")
    width, scale = place.shape[-1], place.stored("_scale", row_scale, _FLOAT, 1)
    if form is TableForm.INT8:
        table = place.stored(".int8", quantized_rows, ir.DataType.INT8)
    else:
        table = place.stored(".int8x4", _packed_rows, ir.DataType.INT32, -(-width // 4))

    def widened(rows: ir.Value) -> ir.Value:
        packed = form is TableForm.PACKED
        return _unpacked(place, rows, width) if packed else place.op("Cast", rows, to=_FLOAT)

    place.node = gather = place.readers["Gather"]
    ids = gather.inputs[1]
    values = widened(place.op("Gather", table, ids, dtype=table.const_value.dtype))  # type: ignore[union-attr]
    place.replace(gather, place.op("Mul", values, place.op("Gather", scale, ids)))
    place.model.graph.remove(gather, safe=True)
    if (transpose := place.readers.get("Transpose")) is not None:
        # The last product of a masked LM: what scales a row scales the logit of its word.
        place.node = transpose
        transpose.replace_input_with(0, widened(table))
        (product,) = transpose.outputs[0].consumers()
        (place.node,) = product.outputs[0].consumers()
        axis = place.number(1, ir.DataType.INT64, 1)
        scaled = place.op("Mul", product.outputs[0], place.op("Squeeze", scale, axis))
        place.replace(product, scaled)
        scaled.producer().replace_input_with(0, product.outputs[0])  # type: ignore[union-attr]
    del place.model.graph.initializers[place.name]


def _unpacked(place: _Place, packed: ir.Value, width: int) -> ir.Value:
    """int32 `(..., ceil(E / 4))` -> float `(..., E)`, exact: the inverse of `pack`.

    Halves of 16 bits are told apart as integers, their digits as floats, which is faster. It does
    not matter whether `Div` rounds down or towards zero.
    """
    integer = ir.DataType.INT32
    base = place.number(1 << 16, integer)
    high = place.op("Div", packed, base, dtype=integer)
    low = place.op("Sub", packed, place.op("Mul", high, base, dtype=integer), dtype=integer)
    high, low = (place.op("Cast", half, to=_FLOAT) for half in (high, low))
    carry, low = _digits(place, low, 1 << 16)
    high = place.op("Add", high, carry)
    (second, first), (last, third) = (_digits(place, half, 256) for half in (low, high))
    signed = [place.op("Sub", part, place.number(128)) for part in (first, second, third)]
    values = place.op("Concat", *signed, last, axis=-1)
    if width % 4 == 0:
        return values
    start, end, axis = (place.number(item, ir.DataType.INT64, 1) for item in (0, width, -1))
    return place.op("Slice", values, start, end, axis)


def _digits(place: _Place, number: ir.Value, base: int) -> tuple[ir.Value, ir.Value]:
    """`floor(number / base)` and what is left of it, `0 .. base - 1`."""
    factor = place.number(base)
    high = place.op("Floor", place.op("Div", number, factor))
    return high, place.op("Sub", number, place.op("Mul", high, factor))


def _store_positions(place: _Place, form: TableForm) -> None:
    """As a constant."""
    if form is TableForm.INT8:
        stored = place.stored(".int8", quantized_rows, ir.DataType.INT8)
        values = place.op("Cast", stored, to=_FLOAT)
        values = place.op("Mul", values, place.stored("_scale", row_scale, _FLOAT, 1))
    else:
        stored = place.stored(".fp16", _half, ir.DataType.FLOAT16)
        values = place.op("Cast", stored, to=_FLOAT)
    values.shape = place.value.shape
    place.node.replace_input_with(place.index, values)
    del place.model.graph.initializers[place.name]


def _packed_rows(table: Floats) -> Stored:
    return pack(quantized_rows(table))


def _half(table: Floats) -> Stored:
    return table.astype(np.float16)
