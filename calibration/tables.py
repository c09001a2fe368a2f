"""The tables of an exported graph that are stored in int8: of words, and of each layer's positions.

Every row has a scale of its own, its largest magnitude being 127 steps, so that a row says nothing
about another. A row of zeros stays one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.formats import Floats, NumberFormat, quantize, scale_of
from plugins.disentangled_attention import contract

POSITIONS = "position tables"
_WORDS = re.compile(r"((?:.*\.)?embeddings\.word_embeddings)\.weight")
_BLOCK = 4096
"""Rows that are quantized at a time: a table of 128,100 x 768 is 375 MiB."""


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


def quantized_rows(table: Floats) -> NDArray[np.int8]:
    """A table `(..., E)` over the scales of its rows, rounded to nearest even."""
    rows = table.reshape(-1, table.shape[-1])
    stored = np.empty(rows.shape, np.int8)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        stored[start : start + _BLOCK] = quantize(block, row_scale(block), NumberFormat.INT8)
    return stored.reshape(table.shape)


def table_error(table: Floats, stored: str, counts: NDArray[np.int64] | None = None) -> float:
    """Squared error of a table in "int8" or "fp16", relative to its square.

    `counts` `(V,)` say how often each row of `(V, E)` was read; None for each as often.
    """
    rows = table.reshape(-1, table.shape[-1])
    counts = np.ones(len(rows), np.int64) if counts is None else counts
    error = square = 0.0
    for index in np.array_split(np.flatnonzero(counts), 1 + len(rows) // _BLOCK):
        block, count = rows[index], counts[index]
        difference = _restored(block, stored) - block
        error += float(count @ np.square(difference).sum(axis=1, dtype=np.float64))
        square += float(count @ np.square(block).sum(axis=1, dtype=np.float64))
    return error / square if square else 0.0


def _restored(rows: Floats, stored: str) -> Floats:
    if stored == "fp16":
        return rows.astype(np.float16).astype(np.float32)
    scale = row_scale(rows)
    restored: Floats = quantize(rows, scale, NumberFormat.INT8) * scale
    return restored


def _positions(model: ir.Model) -> Iterator[str]:
    """Names of the attention's tables; a term that the model lacks has a placeholder of one row."""
    for node in model.graph:
        if (node.domain, node.op_type) in contract.OPERATORS:
            inputs = dict(zip(contract.INPUTS, node.inputs, strict=True))
            for value in (inputs["pos_key"], inputs["pos_query"]):
                tensor = None if value is None else value.const_value
                if value is not None and tensor is not None and tensor.shape.numpy()[1] > 1:
                    yield value.name or ""
