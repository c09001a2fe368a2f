"""Another body for our operator: the standard `Attention` operator, fed with the summed bias.

The portable graph's body computes scores and softmax itself. This one hands query, key and value to
ONNX's `Attention` (opset 23) and both position terms and the mask as its additive bias, which
TensorRT maps to its own attention layer. It is swapped in for an engine only: runtimes that do not
know opset 23 could not read the graph. `docs/tensorrt.md` compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from exporter.artifact.onnx_file import open_onnx
from exporter.errors import InputError
from exporter.graph.attention_body import SCORE_TERMS
from plugins.disentangled_attention import contract

OPSET = 23
_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_LOWEST = {
    ir.DataType.FLOAT16: float(np.finfo(np.float16).min) / 2,
    ir.DataType.BFLOAT16: float(np.finfo(np.float32).min) / 2,
    ir.DataType.FLOAT: float(np.finfo(np.float32).min) / 2,
}
"""Half of a type's lowest value: its sum with any score stays finite."""


@dataclass(frozen=True)
class _Shape:
    """What the body is written for, as the graph's nodes and constants tell it."""

    num_heads: int
    head_size: int
    scale: float
    c2p: bool
    p2c: bool
    saturation: int
    lowest: float


def pays(source: Path) -> bool:
    """Whether this body is better for an engine than the graph's own; `docs/tensorrt.md` says why.

    It is where all terms of the scores are computed in half precision: one kernel takes the
    operator, and reads one bias in place of two terms in fp32. In fp32 it is taken apart.

    Args:
        source: a graph of ours; of any other, the answer is no.
    """
    model = ir.from_proto(open_onnx(source))
    nodes = _attention_nodes(model)
    tables = [value for node in nodes for value in node.inputs[1:3]]
    half = bool(tables) and all(value is not None and value.dtype in _HALF for value in tables)
    return half and not _fp32_terms(model)


def swap_body(source: Path, target: Path) -> int:
    """Write the graph in `source` to `target`, its attention as the standard operator.

    Args:
        source: a graph of ours.
        target: file to write; beside `source`, since weights in files of their own stay there.

    Returns:
        The number of attention nodes.

    Raises:
        InputError: the graph has no attention of ours, was made by another version, or keeps score
            terms in fp32, which its storage type cannot hold.
    """
    model = ir.from_proto(open_onnx(source))
    nodes = _attention_nodes(model)
    if not nodes:
        raise InputError(f"{source}: has no {contract.OP_TYPE}; use a graph of deb-export build")
    kept = _fp32_terms(model)
    if kept:
        raise InputError(
            f"{source}: keeps {', '.join(kept)} of the attention in fp32, which --attention "
            "standard would sum in the graph's type; use --attention graph"
        )
    function = _function(_shape_of(source, nodes))
    model.functions[function.identifier()] = function
    # Older operators of the main graph mean the same in opset 23.
    model.opset_imports[""] = max(model.opset_imports[""], OPSET)
    ir.save(model, target)
    return len(nodes)


def _attention_nodes(model: ir.Model) -> list[ir.Node]:
    return [
        node
        for node in model.graph
        if node.domain == contract.DOMAIN and node.op_type == contract.OP_TYPE
    ]


def _shape_of(source: Path, nodes: list[ir.Node]) -> _Shape:
    node = nodes[0]
    inputs = dict(zip(contract.INPUTS, node.inputs, strict=True))
    slots = inputs["slots"]
    heads = node.attributes["num_heads"].as_int()
    terms = [inputs[name] for name in ("pos_key", "pos_query")]
    ranks = [value for value in terms if value is not None and value.shape is not None]
    lowest = [_LOWEST[v.dtype] for v in terms if v is not None and v.dtype in _LOWEST]
    if slots is None or slots.shape is None or not ranks or not lowest:
        raise InputError(f"{source}: attention of another version; build the graph again")
    length = slots.shape[0]
    size = ranks[0].shape[-1] if ranks[0].shape is not None else None
    if not isinstance(length, int) or not isinstance(size, int):
        raise InputError(f"{source}: attention of another version; build the graph again")
    return _Shape(
        num_heads=heads,
        head_size=size,
        scale=node.attributes["scale"].as_float(),
        c2p=bool(node.attributes["c2p"].as_int()),
        p2c=bool(node.attributes["p2c"].as_int()),
        saturation=(length - 1) // 2,
        # Nodes that stay in fp32 in a graph of fp16 take its smaller value as well.
        lowest=max(lowest),
    )


def _fp32_terms(model: ir.Model) -> list[str]:
    """Score terms whose products a graph of half precision widens to fp32, by their short names."""
    function = model.functions.get((contract.DOMAIN, contract.OP_TYPE, ""))
    found = []
    for node in () if function is None else function:
        name = node.outputs[0].name
        if name in SCORE_TERMS and any(_is_widened(value) for value in node.inputs):
            found.append(name.rpartition(".")[2])
    return found


def _is_widened(value: ir.Value | None) -> bool:
    """Whether a factor comes from a cast, whatever its layout has been changed to since."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in ("Transpose", "Reshape"):
        value = node.inputs[0]
        node = None if value is None else value.producer()
    return node is not None and node.op_type == "Cast"


def _function(shape: _Shape) -> ir.Function:
    body = _Body(shape)
    context = body.context()
    for index, node in enumerate(body.tape.nodes):
        # TensorRT keeps the names of a function and of the graph around it in one table.
        node.name = f"{contract.OP_TYPE}.{node.op_type}.{index}"
        for position, output in enumerate(node.outputs):
            output.name = f"{node.name}.{position}"
    context.name = contract.OUTPUTS[0]
    graph = ir.Graph(
        list(body.inputs.values()),
        [context],
        nodes=body.tape.nodes,
        opset_imports={"": OPSET},
        name=contract.OP_TYPE,
    )
    attributes = [
        ir.Attr(name, ir.AttributeType.FLOAT if name == "scale" else ir.AttributeType.INT, None)
        for name in contract.ATTRIBUTES
    ]
    return ir.Function(contract.DOMAIN, contract.OP_TYPE, "", graph=graph, attributes=attributes)


class _Body:
    """Builds the nodes. Scores and bias have the type of `qkv`, whatever that is."""

    def __init__(self, shape: _Shape) -> None:
        self.shape = shape
        self.tape = Tape()
        self.inputs = {name: ir.Value(name=name) for name in contract.INPUTS}

    def context(self) -> ir.Value:
        query, key, value = self.tape.op_multi_out(
            "Split", [self.inputs["qkv"]], {"axis": -1, "num_outputs": 3}, num_outputs=3
        )
        query_BHSD = self.heads(self.scaled(query), (0, 2, 1, 3))
        bias = self.mask_bias()
        if self.shape.c2p or self.shape.p2c:
            index_BHSS = self.slot_index()
            if self.shape.c2p:
                bias = self.op("Add", self.content_to_position(query_BHSD, index_BHSS), bias)
            if self.shape.p2c:
                key_BHDS = self.heads(self.scaled(key), (0, 2, 3, 1))
                bias = self.op("Add", self.position_to_content(key_BHDS, index_BHSS), bias)
        else:
            # The operator wants a row for each query.
            batch, length = self.sizes()
            bias = self.op(
                "Expand", bias, self.op("Concat", batch, self.ints(1), length, length, axis=0)
            )
        context_BHSD = self.op(
            "Attention",
            query_BHSD,
            self.heads(key, (0, 2, 1, 3)),
            self.heads(value, (0, 2, 1, 3)),
            bias,
            scale=1.0,
        )
        context_BSHD = self.op("Transpose", context_BHSD, perm=(0, 2, 1, 3))
        width = self.shape.num_heads * self.shape.head_size
        return self.op("Reshape", context_BSHD, self.ints(0, 0, width))

    def scaled(self, value: ir.Value) -> ir.Value:
        """A factor of a score's product, scaled, in the type of `qkv`.

        Multiplied in fp32, where the scale is exact: in bf16 it would be off by up to 0.4 %, in
        every score alike. Before the product: a sum of unscaled scores can overflow fp16.
        """
        wide = self.op("Cast", value, to=ir.DataType.FLOAT)
        product = self.op("Mul", wide, self.constant(np.float32(self.shape.scale)))
        return self.op("CastLike", product, self.inputs["qkv"])

    def content_to_position(self, query_BHSD: ir.Value, index_BHSS: ir.Value) -> ir.Value:
        pos_key_HDR = self.op("Transpose", self.typed("pos_key"), perm=(0, 2, 1))
        table_BHSR = self.op("MatMul", query_BHSD, pos_key_HDR)
        return self.op("GatherElements", table_BHSR, index_BHSS, axis=-1)

    def position_to_content(self, key_BHDS: ir.Value, index_BHSS: ir.Value) -> ir.Value:
        table_BHRS = self.op("MatMul", self.typed("pos_query"), key_BHDS)
        return self.op("GatherElements", table_BHRS, index_BHSS, axis=-2)

    def slot_index(self) -> ir.Value:
        """Slot of each query and key: int32 `(B, H, S, S)`."""
        batch, length = self.sizes()
        end = self.op("Cast", self.op("Squeeze", length), to=ir.DataType.INT32)
        position = self.op("Range", self.int32(0), end, self.int32(1))
        rows = self.op("Unsqueeze", position, self.ints(1))
        columns = self.op("Unsqueeze", position, self.ints(0))
        reach = self.shape.saturation
        distance = self.op("Sub", rows, columns)
        clipped = self.op("Clip", distance, self.int32(-reach), self.int32(reach))
        entry = self.op("Add", clipped, self.int32(reach))
        index_SS = self.op("Gather", self.inputs["slots"], entry, axis=0)
        heads = self.ints(self.shape.num_heads)
        return self.op("Expand", index_SS, self.op("Concat", batch, heads, length, length, axis=0))

    def mask_bias(self) -> ir.Value:
        """0 for a key that may be attended, a large negative number else: `(B, 1, 1, S)`."""
        allowed = self.op("Cast", self.inputs["mask"], to=ir.DataType.BOOL)
        allowed_B11S = self.op("Unsqueeze", allowed, self.ints(1, 2))
        return self.op("Where", allowed_B11S, self.like(0.0), self.like(self.shape.lowest))

    def sizes(self) -> tuple[ir.Value, ir.Value]:
        """Batch and length, each of shape `(1,)`."""
        sizes = self.op("Shape", self.inputs["mask"])
        return (
            self.op("Slice", sizes, self.ints(0), self.ints(1)),
            self.op("Slice", sizes, self.ints(1), self.ints(2)),
        )

    def heads(self, packed: ir.Value, perm: tuple[int, ...]) -> ir.Value:
        """`(B, S, H*D)` -> (B, S, H, D) permuted."""
        sizes = self.ints(0, 0, self.shape.num_heads, self.shape.head_size)
        return self.op("Transpose", self.op("Reshape", packed, sizes), perm=perm)

    def typed(self, name: str) -> ir.Value:
        return self.op("CastLike", self.inputs[name], self.inputs["qkv"])

    def like(self, value: float) -> ir.Value:
        """A constant in the type of `qkv`."""
        return self.op("CastLike", self.constant(np.float32(value)), self.inputs["qkv"])

    def int32(self, value: int) -> ir.Value:
        return self.constant(np.int32(value))

    def ints(self, *values: int) -> ir.Value:
        return self.constant(np.array(values, np.int64))

    def constant(
        self, value: np.generic | np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    ) -> ir.Value:
        return self.op("Constant", value=ir.tensor(value))

    def op(self, op_type: str, *inputs: ir.Value, **attributes: object) -> ir.Value:
        return self.tape.op(op_type, inputs, attributes or None)  # type: ignore[arg-type]
