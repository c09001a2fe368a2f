"""Where the hidden state of each layer is in an ONNX graph, by the names of its weights.

A hidden state is what the last LayerNorm of a layer gives, and that is the node that reads its
bias: `LayerNormalization`, the `Add` that ends a decomposed one, or a fused operator. Checkpoints
name that bias, and exporters keep the names of initializers, ours in every precision.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

import onnx

from exporter.graph.write import prefix

EMBEDDINGS = "embeddings"
_BIAS = re.compile(
    r"(?:.*\.)?(embeddings|encoder\.conv|encoder\.layer\.(\d+)\.output)\.LayerNorm\.(?:bias|beta)"
)
_CONVERSIONS = ("Cast", "Identity")


@dataclass(frozen=True)
class HiddenStates:
    """Where the hidden states are, in order: "embeddings", "layer 0" and so on.

    `values` are the names of the graph's values, `(B, S, E)` each, and `types` their element types,
    as ONNX numbers them. All are empty where they cannot be found, for `reason`.
    """

    names: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    types: tuple[int, ...] = ()
    reason: str = ""


def layer_names(count: int) -> tuple[str, ...]:
    """Names of the hidden states of a model with so many layers."""
    return (EMBEDDINGS, *(f"layer {index}" for index in range(count)))


def find_hidden_states(model: onnx.ModelProto) -> HiddenStates:
    """The hidden states of a graph, whichever exporter wrote it.

    Where the model has a convolution, that is the end of the first layer. A value may differ from
    what the next layer reads at padded positions, where the model multiplies it by the mask.
    """
    graph = model.graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    sources = {name: name for name in types}
    found: dict[str, tuple[str, int]] = {}
    for node in graph.node:
        if node.op_type in _CONVERSIONS and not node.domain and node.input[0] in sources:
            # A bias may be stored in another type than it is added in.
            sources[node.output[0]] = sources[node.input[0]]
            to = [item.i for item in node.attribute if item.name == "to"]
            types[node.output[0]] = to[0] if to else types[node.input[0]]
            continue
        for name in node.input:
            bias = _BIAS.fullmatch(sources.get(name, ""))
            if bias is not None and node.output:
                place = f"layer {int(bias[2])}" if bias[2] else bias[1]
                found[place] = (node.output[0], types[name])
    convolution = found.pop("encoder.conv", None)
    if convolution is not None and "layer 0" in found:
        found["layer 0"] = convolution
    names = layer_names(len(found) - 1)
    if len(found) < 2 or set(names) != set(found):
        missing = "no" if not found else "not every"
        return HiddenStates(
            reason=f"{missing} encoder.layer.N.output.LayerNorm.bias is an initializer of the graph"
        )
    ends = [found[name] for name in names]
    return HiddenStates(names, tuple(end for end, _ in ends), tuple(dtype for _, dtype in ends))


def with_outputs(content: bytes, hidden: HiddenStates, outputs: Collection[str]) -> bytes:
    """The serialized model `content` whose hidden states are outputs of the graph as well.

    Of the `outputs` that it has the last hidden state may be one.

    The parts of a protobuf message that come twice are merged, repeated fields one after the other
    (https://protobuf.dev/programming-guides/encoding/#last-one-wins), so a graph with nothing but
    the outputs is appended and the weights are not parsed.
    """
    graph = onnx.GraphProto()
    for name, dtype in zip(hidden.values, hidden.types, strict=True):
        if name not in outputs:
            graph.output.add(name=name).type.tensor_type.elem_type = dtype
    addition: bytes = graph.SerializeToString()
    return content + prefix(onnx.ModelProto, "graph", len(addition)) + addition
