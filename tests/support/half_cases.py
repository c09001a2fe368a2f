"""A random model with its fp32 graph, inputs and ranges, for tests of half graphs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from calibration.ranges import measure_ranges
from exporter.deberta.checkpoint import open_checkpoint
from exporter.graph.export import export_onnx
from exporter.precision.half.types import HalfName
from exporter.runtime.providers.onnx_session import open_fp32
from plugins.disentangled_attention import contract
from support.half_models import run
from support.random_models import random_config, random_inputs, random_model, valid_outputs

DTYPES: tuple[HalfName, ...] = ("fp16", "bf16")
BOUNDS = {"fp16": 0.01, "bf16": 0.08}
"""Largest relative error of random models, whose weights are larger than trained ones."""


class Case:
    """A random model of `transformers`, its fp32 graph, inputs, and the ranges on them."""

    def __init__(self, folder: Path, seed: int, **changes: Any) -> None:
        self.fields, self.task = random_config(seed)
        self.fields.update(changes)
        self.model = random_model(self.fields, self.task, seed)
        self.model.save_pretrained(folder)
        self.graph = folder / "model.onnx"
        export_onnx(open_checkpoint(folder), self.graph)
        length = min(29, self.fields["max_position_embeddings"])
        self.inputs = random_inputs(self.fields, self.task, 12, length, seed)
        self.feeds = {name: tensor.numpy() for name, tensor in self.inputs.items()}
        self.ranges = measure_ranges(self.graph, [self.feeds], open_fp32)

    def error(self, outputs: list[np.ndarray]) -> float:
        """Root mean square error at valid positions, relative to the fp32 outputs."""
        mask = self.inputs["attention_mask"]
        ours = valid_outputs(self.task, tuple(map(torch.from_numpy, outputs)), mask)
        graph = tuple(map(torch.from_numpy, run(self.graph, self.feeds)))
        wanted = valid_outputs(self.task, graph, mask)
        pairs = list(zip(ours, wanted, strict=True))
        square = sum(float(((a - b) ** 2).sum()) for a, b in pairs)
        return (square / sum(float((b**2).sum()) for _, b in pairs)) ** 0.5


def attention_nodes(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type in contract.QUERIES]


def floats(node: ir.Node) -> Iterator[ir.DataType]:
    """The float types that a node reads and gives."""
    for value in (*node.inputs, *node.outputs):
        if value is not None and value.dtype is not None and value.dtype.is_floating_point():
            yield value.dtype
