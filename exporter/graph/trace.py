"""The export form traced into an ONNX graph whose large tensors are still recipes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from exporter.graph.export_form import ExportForm, Recipe
from exporter.model.model_shape import ModelShape
from plugins.disentangled_attention import contract

OPSET = 20
"""The first with Gelu; ONNX Runtime 1.17 and TensorRT 10.13 read it."""

SIZES = {"batch": 2, "choices": 3, "sequence": 7, "words": 5}
"""Sizes that no other axis has, so that the tracer does not take two axes for one."""


def trace(form: ExportForm, shape: ModelShape) -> ir.Model:
    """Trace a model into a graph with dynamic batch, length, and what else varies of its inputs.

    `shape` decides the names and ranks of inputs and outputs. No weight is read: initializers make
    their tensors when written.
    """
    axes = _axes(shape)
    dims: dict[str, Any] = {name: torch.export.Dim(name) for name in SIZES}
    sizes = dict(SIZES)
    if shape.gliner is not None:
        width = shape.gliner.max_width
        dims["spans"], sizes["spans"] = width * dims["words"], width * sizes["words"]
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake, _quiet():
        form.model.to_empty(device="cpu")
        # A tensor each: the tracer merges inputs that are the same object.
        inputs = tuple(
            torch.ones(
                *(sizes[axis] if isinstance(axis, str) else axis for axis in axes[name]),
                dtype=torch.bool if name == "span_mask" else torch.int64,
            )
            for name in shape.inputs
        )
        program = torch.onnx.export(
            form.model,
            inputs,
            dynamo=True,
            optimize=False,
            verbose=False,
            opset_version=OPSET,
            input_names=list(shape.inputs),
            output_names=list(shape.outputs),
            dynamic_shapes=tuple(
                {place: dims[axis] for place, axis in enumerate(axes[name]) if axis in dims}
                for name in shape.inputs
            ),
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    model = program.model
    model.opset_imports[contract.DOMAIN] = contract.VERSION
    for name, value in model.graph.initializers.items():
        value.const_value = make_lazy(name, value, form.recipes[name])
    return model


def _axes(shape: ModelShape) -> dict[str, tuple[str | int, ...]]:
    """The axes of each input: names of those that vary, sizes of the others."""
    tokens: tuple[str | int, ...] = ("batch", "sequence")
    if shape.rank == 3:
        tokens = ("batch", "choices", "sequence")
    axes = dict.fromkeys(shape.inputs, tokens)
    if shape.gliner is not None:
        spans = ("batch", "spans")
        axes |= {"text_lengths": ("batch", 1), "span_idx": (*spans, 2), "span_mask": spans}
    return axes


def make_lazy(name: str, value: ir.Value, recipe: Recipe) -> ir.LazyTensor:
    """The tensor of an initializer of the traced graph, made by its recipe when it is written."""
    if value.const_value is None:
        raise RuntimeError(f"the traced graph has an initializer without a value: {name}")

    def evaluate() -> ir.TensorProtocol:
        return ir.Tensor(recipe().numpy(), name=name)

    dtype, shape = value.const_value.dtype, ir.Shape(value.const_value.shape.numpy())
    return ir.LazyTensor(evaluate, dtype=dtype, shape=shape, name=name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the tracer's remarks, which no user of ours can act on, off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
