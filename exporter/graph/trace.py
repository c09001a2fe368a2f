"""The export form traced into an ONNX graph whose large tensors are still recipes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from exporter.graph.export_form import ExportForm, Recipe
from exporter.model.task import Task, input_names, output_names
from plugins.disentangled_attention import contract

OPSET = 20
"""The first with Gelu; ONNX Runtime 1.17 and TensorRT 10.13 read it."""


def trace(form: ExportForm, task: Task, type_vocab_size: int) -> ir.Model:
    """Trace a model into a graph with dynamic batch, length and number of choices.

    The task decides the names and ranks of inputs and outputs; with `type_vocab_size` above 0,
    `token_type_ids` is an input. No weight is read: initializers make their tensors when written.
    """
    names = input_names(type_vocab_size)
    # Sizes that no other axis has, so that the tracer does not take two axes for one.
    sizes = {"batch": 2, "choices": 3, "sequence": 7}
    if task is not Task.MULTIPLE_CHOICE:
        del sizes["choices"]
    dynamic = {axis: torch.export.Dim(name) for axis, name in enumerate(sizes)}
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake, _quiet():
        form.model.to_empty(device="cpu")
        # A tensor each: the tracer merges inputs that are the same object.
        inputs = tuple(torch.ones(*sizes.values(), dtype=torch.int64) for _ in names)
        program = torch.onnx.export(
            form.model,
            inputs,
            dynamo=True,
            optimize=False,
            verbose=False,
            opset_version=OPSET,
            input_names=list(names),
            output_names=list(output_names(task)),
            dynamic_shapes=tuple(dynamic for _ in names),
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    model = program.model
    model.opset_imports[contract.DOMAIN] = contract.VERSION
    for name, value in model.graph.initializers.items():
        value.const_value = make_lazy(name, value, form.recipes[name])
    return model


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
