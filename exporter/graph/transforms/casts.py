"""A Cast inserted behind a value."""

from __future__ import annotations

import onnx_ir as ir


def insert_cast(graph: ir.Graph, value: ir.Value, dtype: ir.DataType, name: str) -> ir.Value:
    """`value` in another type, called `name`, by a Cast right behind the node that gives it."""
    node = ir.node("Cast", [value], {"to": dtype}, name=f"{name}.cast")
    output = node.outputs[0]
    output.name, output.shape, output.type = name, value.shape, ir.TensorType(dtype)
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], node)
    else:
        graph.insert_after(producer, node)
    return output
