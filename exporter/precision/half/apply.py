"""Applies a plan: types of values and initializers, and a Cast wherever two types meet."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir

from exporter.precision.half.plan import HalfPlan
from exporter.precision.half.types import HalfType


def apply_plan(graph: ir.Graph, plan: HalfPlan, half: HalfType) -> int:
    """Give the planned nodes their type in place; initializers are rounded when written.

    Every value gets at most one Cast to each type. Outputs of the graph stay fp32.

    Returns:
        The number of casts inserted.
    """
    return _Insertion(graph, plan, half).run()


class _Insertion:
    def __init__(self, graph: ir.Graph, plan: HalfPlan, half: HalfType) -> None:
        self.graph = graph
        self.plan = plan
        self.half = half
        self.types = (ir.DataType.FLOAT, half.onnx)
        self.casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def run(self) -> int:
        nodes = list(self.graph)
        for matrix in self.plan.stored:
            self._store(matrix)
        for node in nodes:
            if node in self.plan.nodes:
                for output in node.outputs:
                    output.type = ir.TensorType(self.half.onnx)
        for node in nodes:
            wanted = self.half.onnx if node in self.plan.nodes else ir.DataType.FLOAT
            for index, value in enumerate(node.inputs):
                if value is not None and value.dtype in self.types and value.dtype != wanted:
                    node.replace_input_with(index, self._cast(value, wanted))
        for index, result in enumerate(self.graph.outputs):
            if result.dtype == self.half.onnx:
                self._widen_output(index, result)
        return len(self.casts)

    def _store(self, value: ir.Value) -> None:
        if value.const_value is None:
            raise ValueError(f"initializer {value.name} has no value")
        value.const_value = _rounded(value.const_value, self.half)
        value.type = ir.TensorType(self.half.onnx)

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """`value` in another type, made once, right behind the node that gives it."""
        known = self.casts.get((value, dtype))
        if known is not None:
            return known
        suffix = "fp32" if dtype == ir.DataType.FLOAT else self.half.name
        name = f"{value.name}.{suffix}"
        node = ir.node("Cast", [value], {"to": dtype}, name=f"{name}.cast")
        output = node.outputs[0]
        output.name, output.shape, output.type = name, value.shape, ir.TensorType(dtype)
        producer = value.producer()
        if producer is None:
            self.graph.insert_before(self.graph[0], node)
        else:
            self.graph.insert_after(producer, node)
        self.casts[value, dtype] = output
        return output

    def _widen_output(self, index: int, value: ir.Value) -> None:
        """An output of the graph in fp32, under its own name."""
        name = value.name
        value.name = f"{name}.{self.half.name}"
        wide = self._cast(value, ir.DataType.FLOAT)
        wide.name = name
        self.graph.outputs[index] = wide


def _rounded(tensor: ir.TensorProtocol, half: HalfType) -> ir.LazyTensor:
    """The fp32 `tensor` rounded to nearest even; evaluated when it is written, and let go of."""
    return ir.LazyTensor(
        partial(_round, tensor, half),
        dtype=half.onnx,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name,
    )


def _round(tensor: ir.TensorProtocol, half: HalfType) -> ir.TensorProtocol:
    with np.errstate(over="ignore"):  # what does not fit was judged before
        return ir.Tensor(tensor.numpy().astype(half.numpy), dtype=half.onnx, name=tensor.name)
