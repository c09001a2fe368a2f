"""The portable graph in fp16 or bf16."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

import onnx_ir as ir

from calibration.ranges import inner_name
from exporter.graph.attention_body import (
    CONTENT_TO_POSITION,
    POSITION_TO_CONTENT,
    SCORE_TERMS,
    AttentionShape,
    attention_function,
)
from exporter.graph.transforms.infer_types import infer_types
from exporter.precision.half.cast_insertion import apply_plan
from exporter.precision.half.fit import Fit, Kept, Range, module_of
from exporter.precision.half.plan import plan_half
from exporter.precision.half.roles import Role, role_of
from exporter.precision.half.types import HALF_TYPES, HalfName
from plugins.disentangled_attention import contract

SAFETY_FACTOR = 4.0
"""How far below fp16's largest value a measured range must end: other texts reach further."""

METADATA = "deb_export.float_type"
"""Metadata entry of a graph that has values of a half type, and which."""

RECOMMEND_BF16_ABOVE = 0.25
"""Share of the products' weights in fp32 from which fp16 saves too little."""


_HALVES = frozenset(half.onnx for half in HALF_TYPES.values())


@dataclass(frozen=True)
class HalfReport:
    """What a conversion did.

    Attributes:
        dtype: "fp16" or "bf16".
        converted_nodes: nodes that compute in it, layout nodes included.
        attention_nodes: those of them that are the operator.
        fp32_terms: terms of the attention's scores that are computed in fp32 in every layer.
        casts: Cast nodes inserted in the main graph.
        stored_bytes: bytes of all initializers now.
        safety_factor: distance kept from fp16's largest value.
        kept_fp32: what stays in fp32 because of its range.
        kept_share: share of the products' weights that does.
        recommend_bf16: whether that is so much that bf16 serves better.
    """

    dtype: HalfName
    converted_nodes: int
    attention_nodes: int
    fp32_terms: tuple[str, ...]
    casts: int
    stored_bytes: int
    safety_factor: float
    kept_fp32: tuple[Kept, ...]
    kept_share: float
    recommend_bf16: bool


def convert_to_half(
    model: ir.Model,
    dtype: HalfName,
    ranges: Mapping[str, Range] | None,
    *,
    safety_factor: float = SAFETY_FACTOR,
) -> HalfReport:
    """Convert an exported fp32 graph in place; weights are converted when they are written.

    Products, embedding tables and the attention's inputs and output become half; bias, residual
    sum, LayerNorm, activation, softmax, quantization and the last product stay fp32. Inputs and
    outputs of the graph keep their types.

    Args:
        model: an exported graph, with or without QuantizeLinear and DequantizeLinear.
        dtype: the type to convert to.
        ranges: of the values of this very graph, from `calibration.ranges.measure_ranges`. With
            None only what is stored is judged: fp16 may overflow, and scores stay in fp32.
        safety_factor: how far below fp16's largest value a range must end, at least 1. bf16 ends
            where fp32 does.

    Raises:
        ValueError: the graph holds half values already, is not well typed or has no attention
            node, or the safety factor is below 1.
        InputError: a weight file is broken or holds NaN.
    """
    if safety_factor < 1:
        raise ValueError(f"safety_factor {safety_factor} is below 1")
    half = HALF_TYPES[dtype]
    graph = model.graph
    infer_types(model)
    if any(value.dtype in _HALVES for node in graph for value in node.outputs):
        raise ValueError("the graph is in half precision already")
    shape = attention_shape(graph)
    fit = Fit(half, ranges, safety_factor)
    large = _large_terms(graph, shape, fit)
    fp32_terms = SCORE_TERMS if ranges is None else tuple(large)
    plan = plan_half(graph, half, fit if dtype == "fp16" else None)
    casts = apply_plan(graph, plan, half)
    function = attention_function(shape, graph.opset_imports[""], dtype, fp32_terms=fp32_terms)
    model.functions[function.identifier()] = function
    model.metadata_props[METADATA] = dtype
    return HalfReport(
        dtype=dtype,
        converted_nodes=len(plan.nodes),
        attention_nodes=sum(role_of(node) is Role.ATTENTION for node in plan.nodes),
        fp32_terms=tuple(term.rpartition(".")[2] for term in fp32_terms),
        casts=casts,
        stored_bytes=sum(
            value.const_value.nbytes
            for value in graph.initializers.values()
            if value.const_value is not None
        ),
        safety_factor=safety_factor,
        kept_fp32=(*plan.kept, *chain.from_iterable(large.values())),
        kept_share=plan.kept_share,
        recommend_bf16=plan.kept_share > RECOMMEND_BF16_ABOVE,
    )


def _large_terms(graph: ir.Graph, shape: AttentionShape, fit: Fit) -> dict[str, list[Kept]]:
    """Terms of the attention's scores that the type is too coarse for, with where they are."""
    present = {CONTENT_TO_POSITION: shape.c2p, POSITION_TO_CONTENT: shape.p2c}
    nodes = [node.outputs[0] for node in graph if role_of(node) is Role.ATTENTION]
    large = {}
    for term in SCORE_TERMS:
        if present.get(term, True):
            names = [(inner_name(value.name or "", term), module_of(value)) for value in nodes]
            verdicts = [fit.judge_score(name, module) for name, module in names]
            large[term] = [kept for kept in verdicts if kept is not None]
    return {term: kept for term, kept in large.items() if kept}


def attention_shape(graph: ir.Graph) -> AttentionShape:
    """What the graph's attention nodes say about themselves: all layers share it."""
    for node in graph:
        if role_of(node) is not Role.ATTENTION:
            continue
        inputs = dict(zip(contract.INPUTS, node.inputs, strict=True))
        pos_key, slots = inputs["pos_key"], inputs["slots"]
        if pos_key is None or pos_key.shape is None or slots is None or slots.shape is None:
            raise ValueError(f"attention node {node.name}: inputs of unknown shape")
        return AttentionShape(
            num_heads=node.attributes["num_heads"].as_int(),
            head_size=int(pos_key.shape.numpy()[2]),
            scale=node.attributes["scale"].as_float(),
            c2p=bool(node.attributes["c2p"].as_int()),
            p2c=bool(node.attributes["p2c"].as_int()),
            saturation=(int(slots.shape.numpy()[0]) - 1) // 2,
        )
    raise ValueError("the graph has no attention node")
