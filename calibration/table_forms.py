"""How tables in int8 are written into a graph: one form for ONNX alone, one that suits engines too.

`INT8`: rows of words are read by `Gather`, cast, times the scale of the row; position tables are
int8 with a Cast and two Mul that a runtime folds when it loads them. TensorRT refuses both:
"Quantized constant is only allowed before DQ". `PACKED`: both as `pack` stores them, which every
reader of ONNX takes. docs/quantization.md has the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration import initializers
from calibration.error_feedback import ErrorFeedback
from calibration.formats import Floats, Stored
from calibration.tables import (
    POSITIONS,
    Table,
    TableRounding,
    column_scale,
    quantized_rows,
    row_scale,
    word_feedback,
)

_FLOAT = ir.DataType.FLOAT


class TableForm(str, Enum):
    """How tables are stored."""

    INT8 = "int8"
    PACKED = "int8x4"


def store_tables(
    model: ir.Model, tables: Sequence[Table], form: TableForm
) -> dict[str, TableRounding]:
    """Quantize tables of an fp32 graph in place; they are quantized when they are written.

    The graph has the weights that read them still in fp32. Gives how each was rounded, by the name
    that its fp32 initializer had.

    Raises:
        RuntimeError: a table is not in the graph, or is read in another way: a defect of ours.
    """
    stored = {}
    for table in tables:
        for weight in table.weights:
            place = _Place(model, weight)
            if table.name == POSITIONS:
                _store_positions(place, form)
                stored[weight] = TableRounding.CHANNELS
            else:
                feedback = word_feedback(model, weight)
                _store_words(place, form, feedback)
                known = feedback is not None
                stored[weight] = TableRounding.FEEDBACK if known else TableRounding.NEAREST
    return stored


def pack(stored: NDArray[np.int8]) -> NDArray[np.int32]:
    """int8 `(..., E)` -> int32 `(..., ceil(E / 4))`: a column has those of four quarters of a row.

    They are digits to the base 256: the first three quarters biased by 128, the last one, the
    highest digit, signed. Rows are filled up with zeros.
    """
    width = stored.shape[-1]
    digits = np.zeros((*stored.shape[:-1], -(-width // 4) * 4), np.int32)
    digits[..., :width] = stored
    first, second, third, last = np.split(digits, 4, axis=-1)
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
        shape: Sequence[int],
    ) -> ir.Value:
        """A function of the table."""
        name = f"{self.name}{ending}"
        return initializers.convert(self.model, self.name, function, dtype, name, shape)

    def quantized(
        self, form: TableForm, function: Callable[[Floats], NDArray[np.int8]]
    ) -> ir.Value:
        """The table in int8, as the form has it."""
        if form is TableForm.INT8:
            return self.stored(".int8", function, ir.DataType.INT8, self.shape)
        shape = (*self.shape[:-1], -(-self.shape[-1] // 4))
        return self.stored(".int8x4", lambda t: pack(function(t)), ir.DataType.INT32, shape)

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


def _store_words(place: _Place, form: TableForm, feedback: ErrorFeedback | None) -> None:
    if not {"Gather"} <= place.readers.keys() <= {"Gather", "Transpose"}:
        raise RuntimeError(f"the graph reads {place.name} with {', '.join(place.readers)}")
    scale = place.stored("_scale", row_scale, _FLOAT, (*place.shape[:-1], 1))
    table = place.quantized(form, partial(quantized_rows, feedback=feedback))

    def widened(rows: ir.Value) -> ir.Value:
        return _widened(place, rows, form)

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
    heads, rows, width = place.shape

    def rows_of(table: Floats) -> Floats:
        return table / column_scale(table)

    stored = place.quantized(form, lambda table: quantized_rows(rows_of(table)))
    row = place.stored("_scale", lambda table: row_scale(rows_of(table)), _FLOAT, (heads, rows, 1))
    column = place.stored("_channel_scale", column_scale, _FLOAT, (heads, 1, width))
    values = place.op("Mul", place.op("Mul", _widened(place, stored, form), row), column)
    values.shape = place.value.shape
    place.node.replace_input_with(place.index, values)
    del place.model.graph.initializers[place.name]


def _widened(place: _Place, rows: ir.Value, form: TableForm) -> ir.Value:
    """Stored rows in float."""
    if form is TableForm.INT8:
        return place.op("Cast", rows, to=_FLOAT)
    return _unpacked(place, rows, place.shape[-1])
