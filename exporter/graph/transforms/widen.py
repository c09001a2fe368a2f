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
    {
        *("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Split", "Flatten", "Identity"),
        *("Gather", "GatherElements"),
    }
)


def widen(model: ir.Model) -> int:
    """Replace half types by fp32 in place, rounding each value as half would.

    Local functions are expanded. Initializers stay as they are stored; a Cast behind each widens
    it.

    Returns:
        The number of values that are rounded.

    Raises:
        ValueError: the graph is not well typed.
    """
    InlinePass()(model)
    infer_types(model)
    graph = model.graph
    rounded = 0
    nodes = list(graph)
    for value in list(graph.initializers.values()):
        if value.dtype in _HALF:
            _insert(graph, value, None, ir.DataType.FLOAT)
    for node in nodes:
        for output in node.outputs:
            half = output.dtype
            if half not in _HALF:
                continue
            if node.op_type == "Cast" and not node.domain:
                _insert(graph, output, node, ir.DataType.FLOAT)
                rounded += 1
                continue
            output.type = ir.TensorType(ir.DataType.FLOAT)
            if node.op_type in _KEEPS_VALUES and not node.domain:
                continue
            narrow = _insert(graph, output, node, half)
            _insert(graph, narrow, narrow.producer(), ir.DataType.FLOAT)
            rounded += 1
    return rounded


def _insert(
    graph: ir.Graph, value: ir.Value, after: ir.Node | None, dtype: ir.DataType
) -> ir.Value:
    """Put a Cast behind `value`; what read it reads the Cast."""
    node = ir.node("Cast", [value], {"to": dtype}, name=f"{value.name}.{dtype.name}.round")
    output = node.outputs[0]
    output.name, output.shape = f"{value.name}.{dtype.name}", value.shape
    output.type = ir.TensorType(dtype)
    for user, index in tuple(value.uses()):
        if user is not node:
            user.replace_input_with(index, output)
    if after is None:
        graph.insert_before(graph[0], node)
    else:
        graph.insert_after(after, node)
    return output
