"""Initializers replaced by functions of themselves, evaluated when they are written.

A chain of such functions holds one tensor at a time, so a model's weights are never held together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from calibration.formats import Floats, Stored


def read(model: ir.Model, name: str) -> Floats:
    """The value of an fp32 initializer, evaluated now; RuntimeError where the graph has none."""
    return _tensor(model, name).numpy()


def transform(model: ir.Model, name: str, function: Callable[[Floats], Floats]) -> None:
    """Replace the fp32 initializer `name` by `function` of it, of the same shape, lazily."""
    source = _tensor(model, name)
    model.graph.initializers[name].const_value = _lazy(source, function, source.dtype, name)


def convert(
    model: ir.Model,
    name: str,
    function: Callable[[Floats], Stored],
    dtype: ir.DataType,
    new_name: str,
    shape: Sequence[int] | None = None,
) -> ir.Value:
    """Add `new_name`, a function of the fp32 initializer `name`, which stays, lazily; `shape` is
    that of its result where it is another."""
    return _add(model, _lazy(_tensor(model, name), function, dtype, new_name, shape))


def add(model: ir.Model, name: str, array: Stored, dtype: ir.DataType | None = None) -> ir.Value:
    """Add a small initializer that is held as it is."""
    array = np.ascontiguousarray(array).reshape(array.shape)
    return _add(model, ir.Tensor(array, dtype=dtype, name=name))


def _add(model: ir.Model, tensor: ir.TensorProtocol) -> ir.Value:
    value = ir.val(tensor.name, const_value=tensor)
    model.graph.initializers.add(value)
    return value


def _lazy(
    source: ir.TensorProtocol,
    function: Callable[[Floats], Stored],
    dtype: ir.DataType,
    name: str,
    shape: Sequence[int] | None = None,
) -> ir.LazyTensor:
    def evaluate() -> ir.TensorProtocol:
        return ir.Tensor(np.ascontiguousarray(function(source.numpy())), dtype=dtype, name=name)

    known = ir.Shape(source.shape.numpy() if shape is None else shape)
    return ir.LazyTensor(evaluate, dtype=dtype, shape=known, name=name)


def _tensor(model: ir.Model, name: str) -> ir.TensorProtocol:
    value = model.graph.initializers.get(name)
    if value is None or value.const_value is None or value.const_value.dtype != ir.DataType.FLOAT:
        raise RuntimeError(f"the graph has no fp32 initializer {name}")
    return value.const_value
