"""Faults as real bugs would leave them, planted one at a time into a finished graph.

Names, shapes and types of the graph stay: nothing but what it computes changes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from plugins.disentangled_attention import contract

Array = NDArray[Any]


class NotHereError(Exception):
    """The graph has nothing that such a fault could sit in."""


@dataclass(frozen=True)
class Fault:
    """A fault: how to plant it, and where the judge has to see it.

    Attributes:
        name: of the fault.
        plant: plants it into a layer of a graph.
        stages: the stages that may be named first, without their layer; of other places, whole.
        needs: what a graph must have for it: "scales", "whole numbers", "convolution", a layer of
            "one row" or nothing.
    """

    name: str
    plant: Callable[[Graph, int], None]
    stages: tuple[str, ...]
    needs: str = ""


class Graph:
    """A graph to plant into, by the checkpoint's names."""

    def __init__(self, model: ModelProto, heads: int) -> None:
        self.model, self.heads = model, heads
        self.nodes: list[NodeProto] = list(model.graph.node)
        self.tensors: dict[str, TensorProto] = {t.name: t for t in model.graph.initializer}

    def tensor(self, layer: int | None, part: str) -> TensorProto:
        """The stored tensor `encoder.layer.N.PART`, or `PART` outside of layers; int8 or not."""
        end = part if layer is None else f"encoder.layer.{layer}.{part}"
        found = [t for name, t in self.tensors.items() if name == end or name.endswith("." + end)]
        found = found or [
            t
            for name, t in self.tensors.items()
            if name.rpartition(".")[2] in ("int8", "int8x4", "int7", "fp8")
            and ("." + name.rpartition(".")[0]).endswith("." + end)
        ]
        if len(found) != 1:
            raise NotHereError(part)
        return found[0]

    def change(self, layer: int | None, part: str, change: Callable[[Array], Array | None]) -> None:
        """Replace the content of a tensor, in its own type."""
        tensor = self.tensor(layer, part)
        array = read(tensor)
        with np.errstate(all="ignore"):
            new = change(array)
        new = array if new is None else new
        assert new.shape == array.shape
        write(tensor, new)

    def attention(self, layer: int) -> NodeProto:
        found = [n for n in self.nodes if (n.domain, n.op_type) in contract.OPERATORS]
        return found[layer]

    def reading(self, layer: int, part: str) -> NodeProto:
        """The node that reads a tensor, through its conversions."""
        name = self.tensor(layer, part).name
        while True:
            users = [n for n in self.nodes if name in n.input]
            if users[0].op_type not in ("Cast", "DequantizeLinear", "Identity"):
                return users[0]
            name = users[0].output[0]

    def body(self, layer: int) -> onnx.FunctionProto:
        """The function of a layer's operator."""
        functions: list[onnx.FunctionProto] = list(self.model.functions)
        return next(item for item in functions if item.name == self.attention(layer).op_type)

    def private(self, node: NodeProto, index: int) -> TensorProto:
        """An initializer that several nodes read, as a copy for this one."""
        made: TensorProto = self.model.graph.initializer.add()
        made.CopyFrom(self.tensors[node.input[index]])
        made.name = f"{node.output[0]}.own.{index}"
        self.tensors[made.name] = made
        node.input[index] = made.name
        return made

    def insert(self, before: NodeProto, node: NodeProto) -> None:
        self.model.graph.node.insert(list(self.model.graph.node).index(before), node)


_NUMPY: dict[int, Any] = {
    TensorProto.BFLOAT16: ml_dtypes.bfloat16,
    TensorProto.FLOAT8E4M3FN: ml_dtypes.float8_e4m3fn,
}


def read(tensor: TensorProto) -> Array:
    """Values as float32, or whole numbers as they are."""
    array = numpy_helper.to_array(tensor)
    return array.astype(np.float32) if array.dtype.kind not in "iub" else array.copy()


def write(tensor: TensorProto, array: Array) -> None:
    dtype = _NUMPY.get(tensor.data_type, helper.tensor_dtype_to_np_dtype(tensor.data_type))
    tensor.ClearField("float_data")
    tensor.ClearField("int32_data")
    tensor.ClearField("data_location")
    del tensor.external_data[:]
    tensor.raw_data = np.ascontiguousarray(array.astype(dtype)).tobytes()


def _slot(distance: int) -> Callable[[Graph, int], None]:
    def plant(graph: Graph, layer: int) -> None:
        node = graph.attention(layer)
        tensor = graph.private(node, 3)
        slots = read(tensor)
        middle = len(slots) // 2
        if distance > middle:
            raise NotHereError("so long a distance")
        # The first query has no key before it.
        place = middle - distance if node.op_type == contract.FIRST_OP_TYPE else middle + distance
        slots[place] += 1 if slots[place] < slots.max() else -1
        write(tensor, slots)

    return plant


def _reversed_slots(graph: Graph, layer: int) -> None:
    tensor = graph.private(graph.attention(layer), 3)
    write(tensor, read(tensor)[::-1])


def _zero_head(part: str) -> Callable[[Graph, int], None]:
    def plant(graph: Graph, layer: int) -> None:
        def change(array: Array) -> None:
            if array.shape[1] == 1:
                raise NotHereError(part)
            array[1 % len(array)] = 0

        graph.change(layer, f"attention.self.{part}", change)

    return plant


def _zero_bias(part: str) -> Callable[[Graph, int], None]:
    return lambda graph, layer: graph.change(layer, f"{part}.bias", np.zeros_like)


def _columns(graph: Graph, layer: int) -> None:
    def order(array: Array) -> Array:
        return array[..., [4, 1, 2, 3, 0, *range(5, array.shape[-1])]]

    graph.change(layer, "intermediate.dense.weight", order)
    with suppress(NotHereError):
        graph.change(layer, "intermediate.dense.weight_scale", order)


def _gain(graph: Graph, layer: int) -> None:
    graph.change(layer, "output.LayerNorm.weight", lambda a: a * 1.2)


def _input_scale(factor: float) -> Callable[[Graph, int], None]:
    def plant(graph: Graph, layer: int) -> None:
        graph.change(layer, "output.dense.input_scale", lambda a: a * np.float32(factor))

    return plant


def _weight_scale(graph: Graph, layer: int) -> None:
    graph.change(layer, "output.dense.weight_scale", lambda a: a * np.float32(1.03))


def _neighbour_scale(graph: Graph, layer: int) -> None:
    def change(array: Array) -> None:
        differing = np.flatnonzero(np.abs(array[1:] / array[:-1] - 1) > 0.01)
        array[differing[0] + 1] = array[differing[0]]

    graph.change(layer, "intermediate.dense.weight_scale", change)


def _zero_point(graph: Graph, layer: int) -> None:
    scale = graph.tensor(layer, "output.dense.input_scale").name
    nodes = [n for n in graph.nodes if n.op_type == "QuantizeLinear" and scale in n.input]
    if graph.tensors[nodes[0].input[2]].data_type != TensorProto.INT8:
        raise NotHereError("whole numbers")
    write(graph.private(nodes[0], 2), np.array(1))


def _clip(graph: Graph, layer: int) -> None:
    def change(array: Array) -> Array:
        limit = np.abs(array.astype(np.float32)).max(axis=0) / 2
        if array.dtype.kind == "i":
            limit = np.floor(limit)
        return np.clip(array, -limit, limit)

    graph.change(layer, "intermediate.dense.weight", change)


def _mask(make: Callable[[Graph, NodeProto], None]) -> Callable[[Graph, int], None]:
    return lambda graph, layer: make(graph, graph.attention(layer))


def _no_mask(graph: Graph, node: NodeProto) -> None:
    name = f"{node.output[0]}.all"
    one = helper.make_tensor(f"{name}.one", _mask_type(graph, node), [], [1])
    graph.model.graph.initializer.append(one)
    kind = "Or" if one.data_type == TensorProto.BOOL else "Max"
    graph.insert(node, helper.make_node(kind, [node.input[4], one.name], [name]))
    node.input[4] = name


def _hide_last(graph: Graph, node: NodeProto) -> None:
    """What a length counted one short does: the last valid token is not attended."""
    name = f"{node.output[0]}.short"
    one, cut = f"{name}.one", f"{name}.cut"
    kind = _mask_type(graph, node)
    graph.model.graph.initializer.extend(
        [
            helper.make_tensor(f"{name}.pads", TensorProto.INT64, [4], [0, 0, 0, 1]),
            helper.make_tensor(one, TensorProto.INT64, [1], [1]),
            helper.make_tensor(f"{name}.end", TensorProto.INT64, [1], [1 << 40]),
            helper.make_tensor(f"{name}.zero", kind, [], [0]),
        ]
    )
    ends = [node.input[4], one, f"{name}.end", one]
    graph.insert(node, helper.make_node("Slice", ends, [cut]))
    pads = [cut, f"{name}.pads", f"{name}.zero"]
    graph.insert(node, helper.make_node("Pad", pads, [name]))
    node.input[4] = name


def _mask_type(graph: Graph, node: NodeProto) -> int:
    producer = next((n for n in graph.nodes if node.input[4] in n.output), None)
    if producer is None or producer.op_type != "Cast":
        return int(TensorProto.INT64)
    return int(producer.attribute[0].i)


def _rows(graph: Graph, layer: int) -> None:
    def change(array: Array) -> None:
        array[[10, 11]] = array[[11, 10]]

    graph.change(None, "embeddings.word_embeddings.weight", change)


def _stale_row(graph: Graph, layer: int) -> None:
    def change(array: Array) -> None:
        array[12] = array[13]

    graph.change(None, "embeddings.word_embeddings.weight", change)


def _position_scale(graph: Graph, layer: int) -> None:
    """Of the slot of distance 0, of one head."""

    def change(array: Array) -> None:
        if array.shape[1] == 1:
            raise NotHereError("the term")
        array[0, array.shape[1] // 2] *= np.float32(1.03)

    graph.change(layer, "attention.self.pos_key_scale", change)


def _packed(change: Callable[[Array, int], None]) -> Callable[[Graph, int], None]:
    """Change the packed projection: its last axis as `(3, H, D)`, in weight, bias and scales."""

    def plant(graph: Graph, layer: int) -> None:
        def apply(array: Array) -> Array:
            parts = array.reshape(*array.shape[:-1], 3, graph.heads, -1)
            change(parts, graph.heads)
            return parts.reshape(array.shape)

        for part in ("weight", "bias", "weight_scale"):
            try:
                graph.change(layer, f"attention.self.qkv.{part}", apply)
            except NotHereError:
                if part != "weight_scale":
                    raise

    return plant


def _swap_heads(parts: Array, heads: int) -> None:
    if heads < 2:
        raise NotHereError("a second head")
    parts[..., 0:3, [0, 1], :] = parts[..., 0:3, [1, 0], :]


def _swap_query_key(parts: Array, heads: int) -> None:
    parts[..., [0, 1], :, :] = parts[..., [1, 0], :, :]


def _head_scale(graph: Graph, layer: int) -> None:
    part = "weight_scale"
    try:
        graph.tensor(layer, f"attention.self.qkv.{part}")
    except NotHereError:
        part = "weight"

    def change(array: Array) -> Array:
        parts = array.reshape(*array.shape[:-1], 3, graph.heads, -1)
        parts[..., 2, 0, :] *= np.float32(1.1)
        return parts.reshape(array.shape)

    graph.change(layer, f"attention.self.qkv.{part}", change)


def _transposed(graph: Graph, layer: int) -> None:
    def change(array: Array) -> Array:
        if array.shape[0] != array.shape[1]:
            raise NotHereError("a square matrix")
        return array.T

    graph.change(layer, "attention.output.dense.weight", change)


def _residual(graph: Graph, layer: int) -> None:
    norm = graph.reading(layer, "output.LayerNorm.bias")
    total = next(n for n in graph.nodes if norm.input[0] in n.output)
    total.input[1] = total.input[0]
    total.op_type = "Add"
    half = f"{total.output[0]}.half"
    graph.model.graph.initializer.append(helper.make_tensor(half, TensorProto.FLOAT, [], [0.5]))
    inner = total.output[0] + ".twice"
    graph.insert(norm, helper.make_node("Mul", [inner, half], [norm.input[0]]))
    total.output[0] = inner


def _tanh_gelu(graph: Graph, layer: int) -> None:
    producers = {name: node for node in graph.nodes for name in node.output}
    name = graph.reading(layer, "output.dense.weight").input[0]
    while name in producers and producers[name].op_type != "Gelu":
        name = producers[name].input[0]
    if name not in producers:
        raise NotHereError("Gelu")
    del producers[name].attribute[:]
    producers[name].attribute.append(helper.make_attribute("approximate", "tanh"))


def _epsilon(value: float) -> Callable[[Graph, int], None]:
    def plant(graph: Graph, layer: int) -> None:
        norm = graph.reading(layer, "output.LayerNorm.bias")
        (item,) = (a for a in norm.attribute if a.name == "epsilon")
        item.f = value

    return plant


def _shifted_convolution(graph: Graph, layer: int) -> None:
    graph.change(None, "encoder.conv.conv.weight", lambda a: np.roll(a, 1, axis=-1))


def _position_twice(graph: Graph, layer: int) -> None:
    def change(array: Array) -> Array:
        if array.shape[1] == 1:
            raise NotHereError("the term")
        return array * 2

    try:
        graph.change(layer, "attention.self.pos_key_scale", change)
    except NotHereError:
        graph.change(layer, "attention.self.pos_key", change)


def _scale(graph: Graph, layer: int) -> None:
    """In the body that layers share: every one of them is wrong, the first one is named."""
    for node in graph.body(layer).node:
        for item in node.attribute:
            if item.name == "value" and item.t.data_type == TensorProto.FLOAT:
                value = numpy_helper.to_array(item.t)
                if value.shape == () and 0 < value < 1:
                    write(item.t, value * np.float32(np.sqrt(1.5)))
                    return
    raise NotHereError("the scale")


def _second_row(graph: Graph, layer: int) -> None:
    """The residual of the one row is that of the second token."""
    producers = {name: node for node in graph.nodes for name in node.output}
    norm = graph.reading(layer, "attention.output.LayerNorm.bias")
    (sum_,) = (n for n in graph.nodes if norm.input[0] in n.output)
    for name in sum_.input:
        node = producers[name]
        if node.op_type == "Unsqueeze" and producers[node.input[0]].op_type == "Gather":
            index = producers[producers[node.input[0]].input[1]]
            write(index.attribute[0].t, read(index.attribute[0].t) + 1)
            return
    raise NotHereError("a layer of one row")


def _exchange(graph: Graph, layer: int) -> None:
    first, second = f"encoder.layer.{layer}.", f"encoder.layer.{layer + 1}."
    mine = {name: tensor for name, tensor in graph.tensors.items() if first in name}
    for name, tensor in mine.items():
        other = graph.tensors.get(name.replace(first, second))
        if other is None or other.data_type != tensor.data_type:
            raise NotHereError("another layer of its kind")
    for name, tensor in mine.items():
        other = graph.tensors[name.replace(first, second)]
        content = read(tensor)
        write(tensor, read(other))
        write(other, content)


FAULTS = (
    Fault("a wrong slot at distance 1", _slot(1), ("context",)),
    Fault("a wrong slot at distance 20", _slot(20), ("context",)),
    Fault("slots reversed", _reversed_slots, ("context",)),
    Fault("pos_key of one head zero", _zero_head("pos_key"), ("context",)),
    Fault("pos_query of one head zero", _zero_head("pos_query"), ("context",)),
    Fault("bias zero: packed QKV", _zero_bias("attention.self.qkv"), ("qkv",)),
    Fault("bias zero: attention output", _zero_bias("attention.output.dense"), ("attention",)),
    Fault("bias zero: intermediate", _zero_bias("intermediate.dense"), ("intermediate",)),
    Fault("bias zero: feed-forward output", _zero_bias("output.dense"), ("output",)),
    Fault("two columns swapped", _columns, ("intermediate",)),
    Fault("LayerNorm gain x 1.2", _gain, ("output",)),
    Fault("input scale x 1.5", _input_scale(1.5), ("output",), "scales"),
    Fault("input scale x 0.5", _input_scale(0.5), ("output",), "scales"),
    Fault("weight scale + 3 %", _weight_scale, ("output",), "scales"),
    Fault("scale of a neighbouring column", _neighbour_scale, ("intermediate",), "scales"),
    Fault("zero point of 1", _zero_point, ("output",), "whole numbers"),
    Fault("weights clipped at half", _clip, ("intermediate",)),
    Fault("mask dropped", _mask(_no_mask), ("context",)),
    Fault("last token hidden", _mask(_hide_last), ("context",)),
    Fault("two embedding rows swapped", _rows, ("embeddings",)),
    Fault("a stale embedding row", _stale_row, ("embeddings",)),
    Fault("a position's scale + 3 %", _position_scale, ("context",), "scales"),
    Fault("two heads swapped in Q, K and V", _packed(_swap_heads), ("qkv",)),
    Fault("Q and K swapped", _packed(_swap_query_key), ("qkv",)),
    Fault("a head's values x 1.1", _head_scale, ("qkv",)),
    Fault("a square matrix transposed", _transposed, ("attention",)),
    Fault("residual dropped", _residual, ("output",)),
    Fault("residual of the second token", _second_row, ("attention",), "one row"),
    Fault("GELU in its tanh form", _tanh_gelu, ("intermediate",)),
    Fault("epsilon of 1e-3", _epsilon(1e-3), ("output",)),
    Fault("convolution shifted by one", _shifted_convolution, ("convolution",), "convolution"),
    Fault("position term twice", _position_twice, ("context",)),
    Fault("attention scale of sqrt(2D) for sqrt(3D)", _scale, ("context",)),
    Fault("two layers exchanged", _exchange, ("qkv",)),
)


def planted(model: ModelProto, fault: Fault, layer: int, heads: int) -> ModelProto:
    """A copy of `model` with the fault.

    Raises:
        NotHereError: it has nothing that the fault could sit in.
    """
    changed = copy.deepcopy(model)
    fault.plant(Graph(changed, heads), layer)
    return changed


def has(precision: str, needs: str, *, convolution: bool, one_row: bool = False) -> bool:
    """Whether a graph of a precision, or its layer, has what a fault needs."""
    if needs == "convolution":
        return convolution
    if needs == "one row":
        return one_row
    return not needs or precision == "int8" or (needs == "scales" and precision == "fp8")
