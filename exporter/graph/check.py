"""Judges an exported graph: one attention node per layer, and valid ONNX."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from plugins.disentangled_attention import contract


def count_attention_nodes(model: ir.Model) -> int:
    """Number of nodes of the operator in the main graph."""
    return sum(
        node.domain == contract.DOMAIN and node.op_type == contract.OP_TYPE for node in model.graph
    )


def check_graph(model: ir.Model, num_layers: int) -> None:
    """Check a graph before its weights are written.

    `onnx.checker` runs in full, with shape inference, on the graph with its initializers declared
    as inputs: their types and shapes count, their bytes would only fill memory.

    Raises:
        RuntimeError: the number of attention nodes is not the number of layers, which is a defect
            of the export.
        onnx.checker.ValidationError: the graph is not valid ONNX, likewise.
    """
    found = count_attention_nodes(model)
    if found != num_layers:
        raise RuntimeError(f"the graph has {found} attention nodes for {num_layers} layers")
    graph = model.graph
    held, inputs = dict(graph.initializers), len(graph.inputs)
    graph.initializers.clear()
    graph.inputs.extend(held.values())
    try:
        proto = ir.to_proto(model)
    finally:
        del graph.inputs[inputs:]
        for value in held.values():
            graph.initializers.add(value)
    onnx.checker.check_model(proto, full_check=True)
