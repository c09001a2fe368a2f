"""Where a graph of ours has the values between a layer's stages, by the names of its weights.

A stage is what lies between two of these values, so that each can be judged by itself, with the
graph's own values as its inputs. Exporters' conversions (casts, quantization, smoothing) are looked
through: a stage's value is the one before the conversions that the next stage begins with.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import onnx

from plugins.disentangled_attention import contract

EMBEDDINGS, CONVOLUTION = "embeddings", "convolution"
LAYER_STAGES = ("qkv", "context", "attention", "intermediate", "output")
"""The packed projection, the operator, its output with the first LayerNorm, the first feed-forward
matrix with its activation, the second with the second LayerNorm."""

_CONVERSIONS = frozenset({"Cast", "Identity", "QuantizeLinear", "DequantizeLinear"})
_SMOOTHING = ".smoothing"
_ENDS = (
    (
        re.compile(r"(?:.*\.)?encoder\.layer\.(\d+)\.attention\.output\.LayerNorm\.bias"),
        "attention",
    ),
    (re.compile(r"(?:.*\.)?encoder\.layer\.(\d+)\.output\.LayerNorm\.bias"), "output"),
    (re.compile(r"(?:.*\.)?embeddings\.LayerNorm\.bias"), EMBEDDINGS),
    (re.compile(r"(?:.*\.)?encoder\.conv\.LayerNorm\.bias"), CONVOLUTION),
)
_OUTPUT_WEIGHT = re.compile(r"(?:.*\.)?encoder\.layer\.(\d+)\.output\.dense\.weight(?:\.\w+)?")


@dataclass(frozen=True)
class Stage:
    """The value that ends a stage: `name` as reports say it, `value` as the graph does."""

    name: str
    value: str


def stage_name(layer: int, part: str) -> str:
    """The name of a layer's stage, one of `LAYER_STAGES`."""
    return f"layer {layer} {part}"


def find_stages(model: onnx.ModelProto) -> tuple[Stage, ...]:
    """The stages that a graph has, in the order of execution."""
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    stored = {tensor.name for tensor in graph.initializer}
    found: dict[str, str] = {}
    attention = 0
    for node in graph.node:
        if (node.domain, node.op_type) in contract.OPERATORS:
            found[stage_name(attention, "qkv")] = _before(producers, node.input[0])
            found[stage_name(attention, "context")] = node.output[0]
            attention += 1
            continue
        for name in node.input:
            weight = _before(producers, name)
            if weight not in stored:
                continue
            if node.op_type == "MatMul" and (match := _OUTPUT_WEIGHT.fullmatch(weight)):
                source = _before(producers, node.input[0])
                found[stage_name(int(match[1]), "intermediate")] = source
            for pattern, part in _ENDS:
                if match := pattern.fullmatch(weight):
                    stage = stage_name(int(match[1]), part) if match.groups() else part
                    found[stage] = node.output[0]
    return tuple(Stage(name, value) for name, value in found.items())


def _before(producers: dict[str, onnx.NodeProto], name: str) -> str:
    """The value that conversions were made of."""
    while (node := producers.get(name)) is not None and _converts(node):
        name = node.input[0]
    return name


def _converts(node: onnx.NodeProto) -> bool:
    if node.op_type == "Mul":
        return any(name.endswith(_SMOOTHING) for name in node.input)
    return not node.domain and node.op_type in _CONVERSIONS
