"""The body of the operator in standard ONNX, which runtimes without the plugin expand.

Names carry the layout: `query_BHSD` is (batch, heads, sequence, head size), `R` are position slots,
`L` those of them that the length can reach. What depends on the mask and the length alone reads
nothing else, so a runtime that merges common subexpressions computes it once for all layers.
`docs/cpu-performance.md` has the figures behind the form.

The portable body computes scores and softmax itself. The other leaves them to ONNX's `Attention`
(opset 23), position terms and mask as its additive bias, which TensorRT maps to its own attention
layer; `docs/tensorrt.md` compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import compress
from typing import Literal, TypeAlias

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from plugins.disentangled_attention import contract

Storage: TypeAlias = Literal["fp32", "fp16", "bf16"]

Reading: TypeAlias = Literal["gather", "skew"]

SKEW_UP_TO = 128
"""Longest texts for which skewing is the faster reading on a CPU. As far, v3's every distance has a
slot of its own, so that no product is made twice."""

_LOWEST = {"fp32": -(2.0**127), "fp16": -(2.0**15), "bf16": -(2.0**127)}
"""About half of each type's lowest value, and exact in it."""

STANDARD_OPSET = 23
"""The first with `Attention`."""

CONTENT_TO_CONTENT = f"{contract.OP_TYPE}.content_to_content"
CONTENT_TO_POSITION = f"{contract.OP_TYPE}.content_to_position"
POSITION_TO_CONTENT = f"{contract.OP_TYPE}.position_to_content"
SCORE_TERMS = (CONTENT_TO_CONTENT, CONTENT_TO_POSITION, POSITION_TO_CONTENT)
"""Names of the values in the body that give scores, scaled; the last two for every live slot."""


@dataclass(frozen=True)
class _LiveSlots:
    """The slots that the length can reach: all there are from 512 tokens on in v3, 255 at 128.

    `first`, int32 `(1,)`, is that of the key furthest to the right; `start` and `end`, int64
    `(1,)`, are `first` and one past the last.
    """

    first: ir.Value
    start: ir.Value
    end: ir.Value


@dataclass(frozen=True)
class AttentionShape:
    """What the body is written for: it is one model's, and all layers share it."""

    num_heads: int
    head_size: int
    scale: float
    c2p: bool
    p2c: bool
    saturation: int  # `P`: the slot table has `2 * P + 1` entries
    reading: Reading = "gather"  # of position terms; both are right for every length

    @property
    def terms(self) -> tuple[str, ...]:
        """Those of `SCORE_TERMS` that the scores have."""
        return tuple(compress(SCORE_TERMS, (True, self.c2p, self.p2c)))


def attention_function(
    shape: AttentionShape,
    opset: int,
    storage: Storage = "fp32",
    *,
    fp32_terms: Collection[str] = SCORE_TERMS,
    queries: int | None = None,
) -> ir.Function:
    """The local function `deb_export::DisentangledAttention`, or that of the first query alone.

    Scores are scaled before their products, and summed and normalized in fp32, whatever the
    storage. A body for fp16 or bf16 follows the type of `qkv`, so it serves nodes that stay in fp32
    as well. Its last product, of probabilities and values, is in the storage type.

    Args:
        opset: version of the standard operators.
        storage: type of `qkv`, `pos_key`, `pos_query` and `context`.
        fp32_terms: those of `SCORE_TERMS` that are computed in fp32; the others are computed in the
            storage type and widened to be summed.
        queries: leading rows of the context, as `contract.QUERIES` has them.
    """
    body = _Body(shape, storage, fp32_terms, contract.op_type_of(queries), standard=False)
    return body.function(body.portable_context(), opset)


def standard_attention_function(
    shape: AttentionShape, storage: Storage, queries: int | None
) -> ir.Function:
    """The same function around the standard `Attention`, its arithmetic in the storage type.

    Runtimes that do not know `STANDARD_OPSET` cannot read it: it is for an engine's builder.
    """
    gather = replace(shape, reading="gather")
    body = _Body(gather, storage, (), contract.op_type_of(queries), standard=True)
    return body.function(body.standard_context(), STANDARD_OPSET)


@dataclass
class _Body:
    """Builds the nodes in order, each method one part of the formula."""

    shape: AttentionShape
    storage: Storage
    fp32_terms: Collection[str]
    op_type: str
    standard: bool
    tape: Tape = field(default_factory=Tape)
    queries: dict[bool, ir.Value] = field(default_factory=dict)
    keys: dict[bool, ir.Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.inputs = {name: ir.Value(name=name) for name in contract.INPUTS}

    def function(self, context: ir.Value, opset: int) -> ir.Function:
        # Names that no main graph has: TensorRT keeps those of an expanded function and those of
        # the graph around it in one table.
        for index, node in enumerate(self.tape.nodes):
            node.name = f"{self.op_type}.{node.op_type}.{index}"
            for position, output in enumerate(node.outputs):
                if output.name not in SCORE_TERMS:
                    output.name = f"{node.name}.{position}"
        context.name = contract.OUTPUTS[0]
        inputs, name = list(self.inputs.values()), self.op_type
        graph = ir.Graph(
            inputs, [context], nodes=self.tape.nodes, opset_imports={"": opset}, name=name
        )
        # Declared because the nodes carry them, for the plugin; the body has their values in it.
        attributes = [
            ir.Attr(name, ir.AttributeType.FLOAT if name == "scale" else ir.AttributeType.INT, None)
            for name in contract.ATTRIBUTES
        ]
        return ir.Function(contract.DOMAIN, name, "", graph=graph, attributes=attributes)

    def portable_context(self) -> ir.Value:
        query, key, value = self.split()
        name = CONTENT_TO_CONTENT
        query_BHSD, key_BHDS = self.scaled_query(name, query), self.key_by_head(name, key)
        scores = self.wide(self.term(name, query_BHSD, key_BHDS))
        for term in self.position_terms(query, key):
            scores = self.op("Add", scores, term)
        scores = self.op("Add", scores, self.mask_bias())
        probabilities = self.stored(self.op("Softmax", scores, axis=-1))
        return self.packed(self.op("MatMul", probabilities, self.heads(value, (0, 2, 1, 3))))

    def standard_context(self) -> ir.Value:
        query, key, value = self.split()
        bias = self.stored(self.mask_bias())
        for term in self.position_terms(query, key):
            bias = self.op("Add", term, bias)
        if not (self.shape.c2p or self.shape.p2c or self.first):
            # The operator wants a row for each query.
            batch, length = self.sizes
            sizes = self.op("Concat", batch, self.ints([1]), length, length, axis=0)
            bias = self.op("Expand", bias, sizes)
        query_BHSD = self.scaled_query(CONTENT_TO_CONTENT, query)
        key_BHSD, value_BHSD = (self.heads(part, (0, 2, 1, 3)) for part in (key, value))
        return self.packed(self.op("Attention", query_BHSD, key_BHSD, value_BHSD, bias, scale=1.0))

    @property
    def first(self) -> bool:
        """Whether the context is that of the first query alone."""
        return self.op_type == contract.FIRST_OP_TYPE

    def split(self) -> Sequence[ir.Value]:
        """Query, key and value, `(B, S, H*D)` each; the query `(B, 1, H*D)` where it is one."""
        query, key, value = self.tape.op_multi_out(
            "Split", [self.inputs["qkv"]], {"axis": -1, "num_outputs": 3}, num_outputs=3
        )
        if self.first:
            query = self.op("Slice", query, self.ints([0]), self.ints([1]), self.ints([1]))
        return query, key, value

    def packed(self, context_BHSD: ir.Value) -> ir.Value:
        """`(B, S, H*D)`."""
        context_BSHD = self.op("Transpose", context_BHSD, perm=(0, 2, 1, 3))
        width = self.shape.num_heads * self.shape.head_size
        return self.op("Reshape", context_BSHD, self.ints([0, 0, width]))

    def position_terms(self, query: ir.Value, key: ir.Value) -> Iterator[ir.Value]:
        """The terms of the scores that the model has beside the content's, as they are summed."""
        if self.first:
            yield from self.first_terms(query, key)
        elif self.shape.reading == "skew":
            yield from self.skewed_terms(query, key)
        elif self.shape.c2p or self.shape.p2c:
            # The standard form is known from engines with all slots alone.
            live = None if self.standard else self.live_slots()
            index_BHSS = self.slot_index(live)
            if self.shape.c2p:
                yield self.content_to_position(query, live, index_BHSS)
            if self.shape.p2c:
                yield self.position_to_content(key, live, index_BHSS)

    def content_to_position(
        self, query: ir.Value, live: _LiveSlots | None, index_BHSS: ir.Value
    ) -> ir.Value:
        """`Q . pos_key[slots]`: every live slot's product, then the one each pair reads."""
        name = CONTENT_TO_POSITION
        query_BHSD = self.scaled_query(name, query)
        pos_key_HLD = self.factor(name, self.live(self.inputs["pos_key"], live))
        pos_key_HDL = self.op("Transpose", pos_key_HLD, perm=(0, 2, 1))
        table_BHSL = self.term(name, query_BHSD, pos_key_HDL)
        return self.summed(self.op("GatherElements", table_BHSL, index_BHSS, axis=3))

    def position_to_content(
        self, key: ir.Value, live: _LiveSlots | None, index_BHSS: ir.Value
    ) -> ir.Value:
        """`(K . pos_query[slots])^T`: slots are rows, so the pair (i, j) reads column j."""
        key_BHDS, pos_query_HLD = self.position_factors(key, lambda table: self.live(table, live))
        table_BHLS = self.term(POSITION_TO_CONTENT, pos_query_HLD, key_BHDS)
        return self.summed(self.op("GatherElements", table_BHLS, index_BHSS, axis=2))

    def position_factors(
        self, key: ir.Value, rows_of: Callable[[ir.Value], ir.Value]
    ) -> tuple[ir.Value, ir.Value]:
        """Key, by head and transposed, and `rows_of` `pos_query`, one of them scaled."""
        name, pos_query = POSITION_TO_CONTENT, self.inputs["pos_query"]
        if self.storage == "fp32":
            # Scaled as a constant, and the key is the one of the content's scores. In half the
            # product would round the constant twice, and nobody has judged its small elements.
            return self.key_by_head(name, key), rows_of(self.scaled(name, pos_query))
        key_BHDS = self.heads(self.scaled(name, key), (0, 2, 3, 1))
        return key_BHDS, self.factor(name, rows_of(pos_query))

    def first_terms(self, query: ir.Value, key: ir.Value) -> Iterator[ir.Value]:
        """Both position terms of the first query, `(B, H, 1, S)`, from its distances `-j`."""
        _, length = self.sizes
        end = self.op("Sub", self.int32(0), self.int32_of(self.op("Squeeze", length)))
        slot = self.slot_of(self.op("Range", self.int32(0), end, self.int32(-1)))

        def rows_of(table_HRD: ir.Value) -> ir.Value:
            rows_HSD = self.op("Gather", table_HRD, slot, axis=1)
            return self.op("Transpose", rows_HSD, perm=(0, 2, 1))

        if self.shape.c2p:
            name = CONTENT_TO_POSITION
            pos_key_HDS = self.factor(name, rows_of(self.inputs["pos_key"]))
            yield self.summed(self.term(name, self.scaled_query(name, query), pos_key_HDS))
        if self.shape.p2c:
            # Each key has a row of its own; what they give is summed in fp32, as a MatMul does.
            name = POSITION_TO_CONTENT
            factors = self.position_factors(key, rows_of)
            products = self.op("Mul", *map(self.wide, factors))
            term = self.op("ReduceSum", products, self.ints([2]), keepdims=1)
            term = term if name in self.fp32_terms else self.stored(term)
            term.name = name
            yield self.summed(term)

    def skewed_terms(self, query: ir.Value, key: ir.Value) -> Iterator[ir.Value]:
        """Both position terms, from products with every distance in order; fp32."""
        if self.shape.c2p:
            name, pos_key = CONTENT_TO_POSITION, self.inputs["pos_key"]
            table = self.by_distance(name, self.scaled_query(name, query), pos_key, falling=True)
            yield self.skewed(table)
        if self.shape.p2c:
            name, pos_query = POSITION_TO_CONTENT, self.inputs["pos_query"]
            key_BHSD = self.heads(self.scaled(name, key), (0, 2, 1, 3))
            table = self.by_distance(name, key_BHSD, pos_query, falling=False)
            yield self.op("Transpose", self.skewed(table), perm=(0, 1, 3, 2))

    def by_distance(
        self, name: str, left_BHSD: ir.Value, table_HRD: ir.Value, *, falling: bool
    ) -> ir.Value:
        """Products with the slots of `2 S` distances: `S - 1, S - 2, ...`, or their negatives."""
        _, length = self.sizes
        end = self.op("Squeeze", self.op("Add", length, length))
        column = self.op("Range", self.int32(0), self.int32_of(end), self.int32(1))
        furthest = self.int32_of(self.op("Sub", length, self.ints([1])))
        ends = (furthest, column) if falling else (column, furthest)
        slot = self.slot_of(self.op("Sub", *ends))
        rows = self.factor(name, self.op("Gather", table_HRD, slot, axis=1))
        return self.wide(self.term(name, left_BHSD, self.op("Transpose", rows, perm=(0, 2, 1))))

    def skewed(self, table: ir.Value) -> ir.Value:
        """`(B, H, S, 2 S)` -> `(B, H, S, S)`: row i from its column `S - 1 - i` on.

        From element `S - 1` of the flat table on, rows of `2 S - 1` begin just there.
        """
        batch, length = self.sizes
        furthest = self.op("Sub", length, self.ints([1]))
        width = self.op("Add", length, furthest)
        end = self.op("Add", self.op("Mul", length, width), furthest)
        flat = self.op("Reshape", table, self.ints([0, 0, -1]))
        cut = self.op("Slice", flat, furthest, end, self.ints([2]))
        heads = self.ints([self.shape.num_heads])
        rows = self.op("Reshape", cut, self.op("Concat", batch, heads, length, width, axis=0))
        return self.op("Slice", rows, self.ints([0]), length, self.ints([3]))

    def live(self, table_HRD: ir.Value, live: _LiveSlots | None) -> ir.Value:
        """The live slots of a table: `(H, L, D)`; all without `live`."""
        if live is None:
            return table_HRD
        return self.op("Slice", table_HRD, live.start, live.end, self.ints([1]))

    def key_by_head(self, term: str, key: ir.Value) -> ir.Value:
        """The key by head, transposed, made once for each type that terms take."""
        wide = term in self.fp32_terms
        if wide not in self.keys:
            self.keys[wide] = self.heads(self.factor(term, key), (0, 2, 3, 1))
        return self.keys[wide]

    def scaled_query(self, term: str, query: ir.Value) -> ir.Value:
        """The scaled query by head, made once for each type that terms take."""
        wide = term in self.fp32_terms
        if wide not in self.queries:
            self.queries[wide] = self.heads(self.scaled(term, query), (0, 2, 1, 3))
        return self.queries[wide]

    def factor(self, term: str, value: ir.Value) -> ir.Value:
        """An input of a score's product, in the type that the product has."""
        return self.wide(value) if term in self.fp32_terms else value

    def scaled(self, term: str, value: ir.Value) -> ir.Value:
        """The same, scaled: in fp32, where the scale is exact.

        Before the product: a sum of unscaled scores can overflow fp16.
        """
        product = self.op("Mul", self.wide(value), self.scalar(self.shape.scale))
        return product if term in self.fp32_terms else self.stored(product)

    def term(self, name: str, left: ir.Value, right: ir.Value) -> ir.Value:
        """A product that gives scores; its name is known to those who read ranges."""
        product = self.op("MatMul", left, right)
        product.name = name
        return product

    def live_slots(self) -> _LiveSlots:
        """The slots of the distances `1 - S .. S - 1`: slots never fall with the distance."""
        _, length = self.sizes
        furthest = self.op("Sub", length, self.ints([1]))
        saturation = self.ints([self.shape.saturation])
        reach = self.op("Min", furthest, saturation)
        first, last = (
            self.op("Gather", self.inputs["slots"], self.op(op_type, saturation, reach), axis=0)
            for op_type in ("Sub", "Add")
        )
        start, end = (self.op("Cast", slot, to=ir.DataType.INT64) for slot in (first, last))
        return _LiveSlots(first, start, self.op("Add", end, self.ints([1])))

    def slot_index(self, live: _LiveSlots | None) -> ir.Value:
        """Which live slot each query and key read: int32 `(B, H, S, S)`."""
        batch, length = self.sizes
        end = self.int32_of(self.op("Squeeze", length))
        position = self.op("Range", self.int32(0), end, self.int32(1))
        rows = self.op("Unsqueeze", position, self.ints([1]))
        columns = self.op("Unsqueeze", position, self.ints([0]))
        slot_SS = self.slot_of(self.op("Sub", rows, columns))
        index_SS = slot_SS if live is None else self.op("Sub", slot_SS, live.first)
        shape = self.op("Concat", batch, self.ints([self.shape.num_heads]), length, length, axis=0)
        return self.op("Expand", index_SS, shape)

    def slot_of(self, distance: ir.Value) -> ir.Value:
        """The slots of distances of a query and a key, int32 as they are."""
        reach = self.shape.saturation
        clipped = self.op("Clip", distance, self.int32(-reach), self.int32(reach))
        entry = self.op("Add", clipped, self.int32(reach))
        return self.op("Gather", self.inputs["slots"], entry, axis=0)

    @cached_property
    def sizes(self) -> tuple[ir.Value, ir.Value]:
        """Batch and length, int64 `(1,)` each."""
        sizes = self.op("Shape", self.inputs["mask"])
        batch, length = (
            self.op("Slice", sizes, self.ints([axis]), self.ints([axis + 1])) for axis in (0, 1)
        )
        return batch, length

    def mask_bias(self) -> ir.Value:
        """0 for a key that may be attended, a large negative number for one that may not."""
        allowed = self.op("Cast", self.inputs["mask"], to=ir.DataType.BOOL)
        allowed_B11S = self.op("Unsqueeze", allowed, self.ints([1, 2]))
        # The sum with any score stays finite, also where all are masked; and the storage type has
        # the value, for a runtime that computes in that type after all.
        lowest = _LOWEST[self.storage]
        return self.op("Where", allowed_B11S, self.scalar(0.0), self.scalar(lowest))

    def heads(self, packed: ir.Value, perm: tuple[int, ...]) -> ir.Value:
        """`(B, S, H*D)` -> (B, S, H, D) permuted."""
        sizes = self.ints([0, 0, self.shape.num_heads, self.shape.head_size])
        return self.op("Transpose", self.op("Reshape", packed, sizes), perm=perm)

    def summed(self, term: ir.Value) -> ir.Value:
        """A term of the scores in the type that they are summed in."""
        return term if self.standard else self.wide(term)

    def wide(self, value: ir.Value) -> ir.Value:
        return value if self.storage == "fp32" else self.op("Cast", value, to=ir.DataType.FLOAT)

    def stored(self, value: ir.Value) -> ir.Value:
        """A value in the type of `qkv`."""
        fp32 = self.storage == "fp32"
        return value if fp32 else self.op("CastLike", value, self.inputs["qkv"])

    def op(self, op_type: str, *inputs: ir.Value, **attributes: object) -> ir.Value:
        return self.tape.op(op_type, inputs, attributes or None)  # type: ignore[arg-type]

    def scalar(self, value: float) -> ir.Value:
        return self.op("Constant", value=ir.tensor(np.float32(value)))

    def int32(self, value: int) -> ir.Value:
        return self.op("Constant", value=ir.tensor(np.int32(value)))

    def int32_of(self, value: ir.Value) -> ir.Value:
        return self.op("Cast", value, to=ir.DataType.INT32)

    def ints(self, values: list[int]) -> ir.Value:
        return self.op("Constant", value=ir.tensor(np.array(values, dtype=np.int64)))
