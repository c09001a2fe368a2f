"""The operator's nodes in a graph, and what they and its function say about the attention."""

from __future__ import annotations

import onnx_ir as ir

from exporter.graph.attention_body import SCORE_TERMS, AttentionShape
from plugins.disentangled_attention import contract


def attention_nodes(model: ir.Model) -> list[ir.Node]:
    """The nodes of the operator in the main graph."""
    name = (contract.DOMAIN, contract.OP_TYPE)
    return [node for node in model.graph if (node.domain, node.op_type) == name]


def attention_shape(model: ir.Model) -> AttentionShape:
    """What the operator's body is written for: all layers share it.

    Raises:
        ValueError: the graph has no node of the operator, or one whose inputs have no shapes.
    """
    nodes = attention_nodes(model)
    if not nodes:
        raise ValueError("the graph has no attention node")
    attributes = nodes[0].attributes
    operators = {node.op_type for node in _body(model)}
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
    return [
        str(node.outputs[0].name).rpartition(".")[2]
        for node in _body(model)
        if node.outputs[0].name in SCORE_TERMS and any(map(_is_widened, node.inputs))
    ]


def _body(model: ir.Model) -> tuple[ir.Node, ...]:
    function = model.functions.get((contract.DOMAIN, contract.OP_TYPE, ""))
    return () if function is None else tuple(function)


def _is_widened(value: ir.Value | None) -> bool:
    """Whether a factor comes from a cast, whatever its layout has been changed to since."""
    node = None if value is None else value.producer()
    if node is not None and node.op_type in ("Transpose", "Reshape"):
        return _is_widened(node.inputs[0])
    return node is not None and node.op_type == "Cast"
