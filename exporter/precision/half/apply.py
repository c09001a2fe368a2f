"""Applies a plan: types of values and initializers, and a Cast wherever two types meet."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx_ir as ir

from exporter.graph.transforms.widen import insert_cast
from exporter.graph.write import tensor_of
from exporter.precision.half.half_plan import HalfPlan
from exporter.precision.half.types import HalfType


def apply_plan(graph: ir.Graph, plan: HalfPlan, half: HalfType) -> int:
    """Give the planned nodes their type in place, and count the casts inserted.

    Initializers are rounded when written. Every value gets at most one Cast to each type. Outputs
    of the graph stay fp32.
    """
    suffixes = {ir.DataType.FLOAT: "fp32", half.onnx: half.name}

    @cache
    def cast(value: ir.Value, dtype: ir.DataType) -> ir.Value:
        return insert_cast(graph, value, dtype, f"{value.name}.{suffixes[dtype]}")

    nodes = list(graph)
    for matrix in plan.stored:
        matrix.const_value = _rounded(tensor_of(matrix), half)
        matrix.type = ir.TensorType(half.onnx)
    for output in (output for node in plan.nodes for output in node.outputs):
        output.type = ir.TensorType(half.onnx)
    for node in nodes:
        wanted = half.onnx if node in plan.nodes else ir.DataType.FLOAT
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype in suffixes and value.dtype != wanted:
                node.replace_input_with(index, cast(value, wanted))
    for index, result in enumerate(graph.outputs):
        if result.dtype == half.onnx:  # widened under its own name
            name, result.name = result.name, f"{result.name}.{half.name}"
            graph.outputs[index] = cast(result, ir.DataType.FLOAT)
            graph.outputs[index].name = name
    return cast.cache_info().currsize


def _rounded(tensor: ir.TensorProtocol, half: HalfType) -> ir.LazyTensor:
    """The fp32 `tensor` rounded to nearest even; evaluated when it is written, and let go of."""

    def evaluate() -> ir.TensorProtocol:
        with np.errstate(over="ignore"):  # what does not fit was judged before
            return ir.Tensor(tensor.numpy().astype(half.numpy), dtype=half.onnx, name=tensor.name)

    shape = ir.Shape(tensor.shape.numpy())
    return ir.LazyTensor(evaluate, dtype=half.onnx, shape=shape, name=tensor.name)
