"""A half-precision graph as ONNX Runtime's CPU provider can run it, with half's rounding.

The CPU provider has no bf16 kernels, and for fp16 it computes in fp32 and drops the rounding in
between. Here the types are fp32, and each value that the graph has in half goes through the half
type and back: these are the values that a device gives which sums in fp32 and stores in half.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from exporter.graph.transforms.infer_types import infer_types

_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_KEEPS_VALUES = frozenset(
    "Transpose Reshape Squeeze Unsqueeze Slice Split Flatten Identity Gather GatherElements".split()
)


def widen(model: ir.Model) -> int:
    """Replace half types by fp32 in place, rounding each value as half would; count the values.

    Local functions are expanded. Initializers stay as stored; a Cast behind each widens it.

    Raises:
        ValueError: the graph is not well typed.
    """
    InlinePass()(model)
    infer_types(model)
    graph, rounded = model.graph, 0
    nodes = list(graph)
    for value in list(graph.initializers.values()):
        if value.dtype in _HALF:
            _insert(graph, value, ir.DataType.FLOAT)
    for node in nodes:
        for output in node.outputs:
            half = output.dtype
            if half not in _HALF:
                continue
            if node.op_type == "Cast" and not node.domain:
                _insert(graph, output, ir.DataType.FLOAT)
                rounded += 1
                continue
            output.type = ir.TensorType(ir.DataType.FLOAT)
            if node.op_type not in _KEEPS_VALUES or node.domain:
                _insert(graph, _insert(graph, output, half), ir.DataType.FLOAT)
                rounded += 1
    return rounded


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


def _insert(graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """Put a Cast behind `value`; what read it reads the Cast."""
    users = tuple(value.uses())
    output = insert_cast(graph, value, dtype, f"{value.name}.{dtype.name}")
    for user, index in users:
        user.replace_input_with(index, output)
    return output
