"""The operators' nodes in a graph, and what they and their functions say about the attention."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from exporter.graph.attention_body import SCORE_TERMS, AttentionShape
from plugins.disentangled_attention import contract


def attention_nodes(model: ir.Model) -> list[ir.Node]:
    """The nodes that are a layer's attention in the main graph."""
    return [node for node in model.graph if (node.domain, node.op_type) in contract.OPERATORS]


def set_functions(model: ir.Model, make: Callable[[int | None], ir.Function]) -> None:
    """Give the model the function of each operator that it has, made by its number of queries."""
    for op_type in dict.fromkeys(node.op_type for node in attention_nodes(model)):
        function = make(contract.QUERIES[op_type])
        model.functions[function.identifier()] = function


def attention_shape(model: ir.Model) -> AttentionShape:
    """What the operator's body is written for: all layers share it.

    Raises:
        ValueError: the graph has no node of the operator, or one whose inputs have no shapes.
    """
    nodes = attention_nodes(model)
    if not nodes:
        raise ValueError("the graph has no attention node")
    attributes = nodes[0].attributes
    operators = {node.op_type for node in _body(model, contract.OP_TYPE)}
    inputs = dict(zip(contract.INPUTS, nodes[0].inputs, strict=True))
    pos_key, slots = inputs["pos_key"], inputs["slots"]
    if pos_key is None or pos_key.shape is None or slots is None or slots.shape is None:
        raise ValueError(f"attention node {nodes[0].name}: inputs of unknown shape")
    return AttentionShape(
        num_heads=attributes["num_heads"].as_int(),
        head_size=int(pos_key.shape.numpy()[2]),
        scale=attributes["scale"].as_float(),
        c2p=bool(attributes["c2p"].as_int()),
        p2c=bool(attributes["p2c"].as_int()),
        saturation=(int(slots.shape.numpy()[0]) - 1) // 2,
        # A body without position terms is the same either way.
        reading="skew" if operators and "GatherElements" not in operators else "gather",
    )


def widened_terms(model: ir.Model) -> list[str]:
    """Score terms whose products a graph of half precision widens to fp32, by their short names."""
    found = {
        str(node.outputs[0].name)
        for op_type in contract.QUERIES
        for node in _body(model, op_type)
        if node.outputs[0].name in SCORE_TERMS and any(map(_is_widened, node.inputs))
    }
    return [term.rpartition(".")[2] for term in SCORE_TERMS if term in found]


def _body(model: ir.Model, op_type: str) -> tuple[ir.Node, ...]:
    function = model.functions.get((contract.DOMAIN, op_type, ""))
    return () if function is None else tuple(function)


def _is_widened(value: ir.Value | None) -> bool:
    """Whether a factor comes from a cast, scaled or in another layout since."""
    node = None if value is None else value.producer()
    if node is not None and node.op_type in ("Transpose", "Reshape", "Mul"):
        return any(map(_is_widened, node.inputs))
    return node is not None and node.op_type == "Cast"
