"""Initializers replaced by functions of themselves, evaluated when they are written.

A chain of such functions holds one tensor at a time, so a model's weights are never held together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.generic]
Floats: TypeAlias = NDArray[np.float32]


def read(model: ir.Model, name: str) -> Floats:
    """The value of a fp32 initializer, evaluated now.

    Raises:
        RuntimeError: the graph has no such fp32 initializer, which is a defect of the caller.
    """
    return _tensor(model, name).numpy()


def transform(model: ir.Model, name: str, function: Callable[[Floats], Floats]) -> None:
    """Replace the fp32 initializer `name` by `function` of it, of the same shape, lazily."""
    source = _tensor(model, name)
    model.graph.initializers[name].const_value = _lazy(source, function, source.dtype, name)


def convert(
    model: ir.Model,
    name: str,
    function: Callable[[Floats], Array],
    dtype: ir.DataType,
    new_name: str,
) -> ir.Value:
    """Add `new_name`, a function of the fp32 initializer `name` in another type, lazily.

    Returns:
        The new initializer; the old one stays until it is removed.
    """
    return _add(model, _lazy(_tensor(model, name), function, dtype, new_name))


def add(model: ir.Model, name: str, array: Array, dtype: ir.DataType | None = None) -> ir.Value:
    """Add a small initializer that is held as it is."""
    array = np.ascontiguousarray(array).reshape(array.shape)
    return _add(model, ir.Tensor(array, dtype=dtype, name=name))


def _add(model: ir.Model, tensor: ir.TensorProtocol) -> ir.Value:
    value = ir.Value(
        name=tensor.name,
        shape=ir.Shape(tensor.shape.numpy()),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    model.graph.initializers.add(value)
    return value


def _lazy(
    source: ir.TensorProtocol, function: Callable[[Floats], Array], dtype: ir.DataType, name: str
) -> ir.LazyTensor:
    def evaluate() -> ir.TensorProtocol:
        array = np.ascontiguousarray(function(source.numpy()))
        return ir.Tensor(array, dtype=dtype, name=name)

    return ir.LazyTensor(evaluate, dtype=dtype, shape=ir.Shape(source.shape.numpy()), name=name)


def _tensor(model: ir.Model, name: str) -> ir.TensorProtocol:
    value = model.graph.initializers.get(name)
    if value is None or value.const_value is None or value.const_value.dtype != ir.DataType.FLOAT:
        raise RuntimeError(f"the graph has no fp32 initializer {name}")
    return value.const_value
