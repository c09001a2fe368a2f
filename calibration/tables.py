"""The tables of an exported graph that are stored in int8: of words, and of each layer's positions.

Every row has a scale of its own, its largest magnitude being 127 steps, so that a row of words says
nothing about another; positions have one for each channel of a head too. A row of zeros stays one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration import initializers
from calibration.error_feedback import ErrorFeedback, reader_metric
from calibration.formats import Floats, NumberFormat, quantize, scale_of
from plugins.disentangled_attention import contract

POSITIONS = "position tables"
_EMBEDDINGS = "embeddings"
_WORDS = re.compile(rf"((?:.*\.)?{_EMBEDDINGS}\.word_embeddings)\.weight")
_BLOCK = 4096
"""Rows that are quantized at a time: a table of 128,100 x 768 is 375 MiB."""


class TableRounding(str, Enum):
    """How a table was rounded: what a plan says of it.

    Rows over their scales to nearest; by `ErrorFeedback`; or over the scales of a head's channels
    and then over their own.
    """

    NEAREST = "nearest"
    FEEDBACK = "feedback"
    CHANNELS = "channels"


@dataclass(frozen=True)
class Table:
    """Tables that are quantized together or not at all.

    Attributes:
        name: path of the word embeddings in the checkpoint, or `POSITIONS`.
        weights: names of the fp32 initializers: `(V, E)` of words, `(H, R, D)` of positions.
    """

    name: str
    weights: tuple[str, ...]


def find_tables(model: ir.Model) -> tuple[Table, ...]:
    """The word embeddings of an exported graph, and the position tables of all its layers."""
    words = [match for name in model.graph.initializers if (match := _WORDS.fullmatch(name))]
    tables = [Table(match[1], (match[0],)) for match in words]
    if positions := tuple(_positions(model)):
        tables.append(Table(POSITIONS, positions))
    return tuple(tables)


def row_scale(rows: Floats) -> Floats:
    """`(..., E)` -> `(..., 1)`: what a step of each row is worth."""
    return scale_of(np.abs(rows).max(axis=-1, keepdims=True), NumberFormat.INT8)


def column_scale(positions: Floats) -> Floats:
    """`(H, R, D)` -> `(H, 1, D)`: what each channel of a head is divided by before its rows are
    quantized, so that one with large values, which a query may multiply by small ones, costs the
    others nothing."""
    return scale_of(np.abs(positions).max(axis=1, keepdims=True), NumberFormat.INT8)


def quantized_rows(table: Floats, feedback: ErrorFeedback | None = None) -> NDArray[np.int8]:
    """A table `(..., E)` over the scales of its rows, rounded to nearest even, or by `feedback`."""
    rows = table.reshape(-1, table.shape[-1])
    stored = np.empty(rows.shape, np.int8)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        scale = row_scale(block)
        if feedback is None:
            stored[start : start + _BLOCK] = quantize(block, scale, NumberFormat.INT8)
        else:
            stored[start : start + _BLOCK] = feedback.rounded(block / scale)
    return stored.reshape(table.shape)


def words_error(
    table: Floats, counts: NDArray[np.int64], feedback: ErrorFeedback | None = None
) -> float:
    """Squared error of words `(V, E)` in int8, relative to their square.

    Both as those see it that read rows first, where there is a `feedback`. `counts` `(V,)` say how
    often each row was read.
    """
    cost = _square if feedback is None else feedback.cost
    error = square = 0.0
    for index in np.array_split(np.flatnonzero(counts), 1 + len(table) // _BLOCK):
        block, count = table[index], counts[index]
        restored = quantized_rows(block, feedback) * row_scale(block)
        error += float(count @ cost(restored - block))
        square += float(count @ cost(block))
    return error / square if square else 0.0


def positions_error(table: Floats) -> float:
    """Squared error of `(H, R, D)` in int8, each channel relative to its own: the mean."""
    scaled = table / column_scale(table)
    difference = quantized_rows(scaled) * row_scale(scaled) - scaled
    square = np.square(scaled).mean(dtype=np.float64)
    return float(np.square(difference).mean(dtype=np.float64) / square) if square else 0.0


def word_feedback(model: ir.Model, weight: str) -> ErrorFeedback | None:
    """How the words in `weight` of an exported fp32 graph are rounded.

    None, so to nearest, where the decoder of a masked LM reads the same rows, or no encoder does.
    """
    prefix = weight.removesuffix(f"{_EMBEDDINGS}.word_embeddings.weight")
    projection = f"{prefix}encoder.layer.0.attention.self.qkv.weight"
    readers = {usage.node.op_type for usage in model.graph.initializers[weight].uses()}
    if projection not in model.graph.initializers or readers != {"Gather"}:
        return None
    gains = f"{prefix}{_EMBEDDINGS}.LayerNorm.weight"
    before = f"{prefix}{_EMBEDDINGS}.embed_proj.weight"
    held = before in model.graph.initializers
    read = partial(initializers.read, model)
    metric = reader_metric(read(projection), read(gains), read(before) if held else None)
    return ErrorFeedback(metric)


def _square(rows: Floats) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.square(rows).sum(axis=1, dtype=np.float64)
    return found


def _positions(model: ir.Model) -> Iterator[str]:
    """Names of the attention's tables; a term that the model lacks has a placeholder of one row."""
    for node in model.graph:
        if (node.domain, node.op_type) in contract.OPERATORS:
            inputs = dict(zip(contract.INPUTS, node.inputs, strict=True))
            for value in (inputs["pos_key"], inputs["pos_query"]):
                tensor = None if value is None else value.const_value
                if value is not None and tensor is not None and tensor.shape.numpy()[1] > 1:
                    yield value.name or ""
