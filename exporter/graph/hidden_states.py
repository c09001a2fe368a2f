"""Where the hidden state of each layer is in an ONNX graph, by the names of its weights.

A hidden state is what the last LayerNorm of a layer gives, and that is the node that reads its
bias: `LayerNormalization`, the `Add` that ends a decomposed one, or a fused operator. Checkpoints
name that bias, and exporters keep the names of initializers, ours in every precision.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx

from exporter.graph.write import varint

EMBEDDINGS = "embeddings"
_EMBEDDINGS = re.compile(r"(?:.*\.)?embeddings\.LayerNorm\.(?:bias|beta)")
_CONVOLUTION = re.compile(r"(?:.*\.)?encoder\.conv\.LayerNorm\.(?:bias|beta)")
_LAYER = re.compile(r"(?:.*\.)?encoder\.layer\.(\d+)\.output\.LayerNorm\.(?:bias|beta)")
_CONVERSIONS = ("Cast", "Identity")
_GRAPH_FIELD = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number


@dataclass(frozen=True)
class HiddenStates:
    """Values of a graph with the hidden states, in order.

    Attributes:
        names: of the layers, "embeddings" and "layer 0" on; empty where they cannot be found.
        values: names of the values, `(B, S, E)` each.
        types: their element types, as ONNX numbers them.
        reason: why they cannot be found.
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
            place = _place(sources[name]) if name in sources else None
            if place is not None and node.output:
                found[place] = (node.output[0], types[name])
    return _in_order(found)


def _place(name: str) -> str | None:
    """What a bias of this name ends."""
    layer = _LAYER.fullmatch(name)
    if layer is not None:
        return f"layer {int(layer[1])}"
    if _CONVOLUTION.fullmatch(name):
        return "convolution"
    return EMBEDDINGS if _EMBEDDINGS.fullmatch(name) else None


def _in_order(found: Mapping[str, tuple[str, int]]) -> HiddenStates:
    places = dict(found)
    convolution = places.pop("convolution", None)
    if convolution is not None and "layer 0" in places:
        places["layer 0"] = convolution
    names = layer_names(len(places) - 1)
    if len(places) < 2 or set(names) != set(places):
        missing = "no" if not places else "not every"
        return HiddenStates(
            reason=f"{missing} encoder.layer.N.output.LayerNorm.bias is an initializer of the graph"
        )
    return HiddenStates(
        names=names,
        values=tuple(places[name][0] for name in names),
        types=tuple(places[name][1] for name in names),
    )


def with_outputs(content: bytes, hidden: HiddenStates, outputs: Collection[str]) -> bytes:
    """A serialized model whose hidden states are outputs of the graph as well.

    Args:
        content: the model.
        hidden: its hidden states.
        outputs: the outputs that it has; the last hidden state may be one.

    The parts of a protobuf message that come twice are merged, repeated fields one after the other
    (https://protobuf.dev/programming-guides/encoding/#last-one-wins), so a graph with nothing but
    the outputs is appended and the weights are not parsed.
    """
    graph = onnx.GraphProto()
    for name, dtype in zip(hidden.values, hidden.types, strict=True):
        if name in outputs:
            continue
        info = graph.output.add(name=name)
        info.type.tensor_type.elem_type = dtype
    addition: bytes = graph.SerializeToString()
    return content + bytes([_GRAPH_FIELD << 3 | 2]) + varint(len(addition)) + addition
