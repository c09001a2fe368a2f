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

    def evaluate() -> ir.TensorProtocol:
        return ir.Tensor(np.ascontiguousarray(function(source.numpy())), name=name)

    model.graph.initializers[name].const_value = ir.LazyTensor(
        evaluate, dtype=source.dtype, shape=ir.Shape(source.shape.numpy()), name=name
    )


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
    source = _tensor(model, name)
    shape = ir.Shape(source.shape.numpy())

    def evaluate() -> ir.TensorProtocol:
        array = np.ascontiguousarray(function(source.numpy()))
        return ir.Tensor(array, dtype=dtype, name=new_name)

    lazy = ir.LazyTensor(evaluate, dtype=dtype, shape=shape, name=new_name)
    value = ir.Value(name=new_name, shape=shape, type=ir.TensorType(dtype), const_value=lazy)
    model.graph.initializers[new_name] = value
    return value


def add(model: ir.Model, name: str, array: Array, dtype: ir.DataType | None = None) -> ir.Value:
    """Add a small initializer that is held as it is."""
    tensor = ir.Tensor(np.ascontiguousarray(array).reshape(array.shape), dtype=dtype, name=name)
    value = ir.Value(
        name=name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    model.graph.initializers[name] = value
    return value


def _tensor(model: ir.Model, name: str) -> ir.TensorProtocol:
    value = model.graph.initializers.get(name)
    if value is None or value.const_value is None or value.const_value.dtype != ir.DataType.FLOAT:
        raise RuntimeError(f"the graph has no fp32 initializer {name}")
    return value.const_value
