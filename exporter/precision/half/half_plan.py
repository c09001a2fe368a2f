"""Decides which nodes take a half type: products, tables and attention whose values all fit it.

What is stored between kernels and what is multiplied is half; what happens in between (bias,
residual sum, LayerNorm, activation) is fp32, and a compiler fuses it with its casts. So LayerNorm
has fp32 statistics, and no sum of two values is formed in half.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

import onnx_ir as ir

from exporter.precision.half.fit import Fit, Kept, walk_back
from exporter.precision.half.types import HalfType
from plugins.disentangled_attention import contract

LARGE_SHARE = 0.01
"""Share of the weights from which the matrix of the last product is stored in half."""


class Role(Enum):
    """Decides the types that a node may compute in."""

    PRODUCT = "product"  # activations times a stored matrix: tensor cores, which sum in fp32
    TABLE = "table"  # rows read from a stored table
    ATTENTION = "attention"  # the operator, whose arithmetic is fp32 whatever its inputs are
    LAYOUT = "layout"  # moves values and leaves them as they are
    ARITHMETIC = "arithmetic"  # all the rest, such as sums and LayerNorm; computes in fp32


_PRODUCTS = frozenset({"MatMul", "Gemm", "Conv"})
_LAYOUT = frozenset("Transpose Reshape Squeeze Unsqueeze Slice Flatten Identity Gather".split())


def role_of(node: ir.Node) -> Role:
    """The role of a node in a graph whose float values are fp32."""
    if (node.domain, node.op_type) in contract.OPERATORS:
        return Role.ATTENTION
    if node.domain:
        return Role.ARITHMETIC
    if node.op_type in _PRODUCTS and not is_stored(node.inputs[0]) and is_stored(node.inputs[1]):
        return Role.PRODUCT
    if node.op_type == "Gather" and is_stored(node.inputs[0]) and not _is_scale(node.inputs[0]):
        return Role.TABLE
    if node.op_type in _LAYOUT and is_float(node.inputs[0]) and not is_stored(node.inputs[0]):
        return Role.LAYOUT
    return Role.ARITHMETIC


def is_float(value: ir.Value | None) -> bool:
    """Whether a value is fp32."""
    return value is not None and value.dtype == ir.DataType.FLOAT


def is_stored(value: ir.Value | None) -> bool:
    """Whether a value is an fp32 initializer; a quantized weight is not."""
    return value is not None and is_float(value) and value.is_initializer()


def _is_scale(table: ir.Value | None) -> bool:
    """Whether the rows of a table are one number: what a step of another table's rows is worth."""
    return table is not None and table.shape is not None and table.shape[-1] == 1


def float_inputs(node: ir.Node) -> list[ir.Value]:
    """The fp32 inputs of a node, in order."""
    return [value for value in node.inputs if value is not None and is_float(value)]


@dataclass(frozen=True)
class HalfPlan:
    """Nodes that compute in half, layout nodes between them included, initializers stored in half,
    what stays in fp32 because of its range, and the share of the products' weights that does."""

    nodes: frozenset[ir.Node]
    stored: frozenset[ir.Value]
    kept: tuple[Kept, ...]
    kept_share: float


def plan_half(graph: ir.Graph, half: HalfType, fit: Fit | None) -> HalfPlan:
    """Choose the nodes that take a half type in a main graph whose float values are fp32.

    `fit` judges values and matrices; with None everything fits.
    """
    roles = {node: role_of(node) for node in graph}
    last = _last_products(graph, roles)
    chosen = [
        node
        for node, role in roles.items()
        if role in (Role.PRODUCT, Role.TABLE, Role.ATTENTION)
        and node not in last
        and not (node.op_type == "Conv" and half.name == "bf16")  # ONNX has it from opset 22
    ]
    kept: dict[ir.Value, Kept] = {}
    for value, verdict in () if fit is None else _verdicts(chosen, roles, fit):
        if verdict is not None:
            kept.setdefault(value, verdict)
    nodes = {
        node for node in chosen if kept.keys().isdisjoint((*float_inputs(node), *node.outputs))
    }
    weights = {n: _size(n.inputs[1]) for n in chosen if roles[n] is Role.PRODUCT}
    kept_weights = sum(size for node, size in weights.items() if node not in nodes)
    _add_layout(roles, nodes)
    stored = {value for node in nodes for value in float_inputs(node) if is_stored(value)}
    large = _large(graph, last)
    stored |= {matrix for matrix in large if fit is None or fit.judge_stored(matrix) is None}
    share = kept_weights / max(1, sum(weights.values()))
    return HalfPlan(frozenset(nodes), frozenset(stored), tuple(kept.values()), share)


def _verdicts(
    nodes: Collection[ir.Node], roles: Mapping[ir.Node, Role], fit: Fit
) -> Iterator[tuple[ir.Value, Kept | None]]:
    """Judge what nodes read and give; a value may have several verdicts."""
    judged: set[ir.Value] = set()
    for node in nodes:
        matrix = node.inputs[1] if roles[node] is Role.PRODUCT else None
        for value in (*float_inputs(node), *node.outputs):
            if value is not matrix and value not in judged:
                judged.add(value)
                judge = fit.judge_stored if is_stored(value) else fit.judge_value
                yield value, judge(value)
        if matrix is not None:
            source, product = node.inputs[0], node.outputs[0]
            assert source is not None
            figures = fit.matrix(matrix, _output_axis(node))
            yield matrix, fit.judge_stored(matrix, figures.absmax)
            yield matrix, fit.judge_weights(source, figures, product)
            yield from fit.judge_inputs(_carriers(source, roles), figures, product)


def _carriers(value: ir.Value, roles: Mapping[ir.Node, Role]) -> Iterator[ir.Value]:
    """`value` and what its elements come from, back to a product, a table or a LayerNorm."""

    def sources(current: ir.Value) -> list[ir.Value]:
        node = current.producer()
        ends = node is None or roles[node] in (Role.PRODUCT, Role.TABLE)
        if node is None or ends or node.op_type == "LayerNormalization":
            return []
        # Of the operator's inputs only the first carries values through it.
        count = 1 if roles[node] is Role.ATTENTION else None
        return [source for source in float_inputs(node)[:count] if not is_stored(source)]

    return walk_back([value], sources)


def _output_axis(node: ir.Node) -> int:
    """The axis of a product's matrix that counts its outputs."""
    transposed = node.attributes.get("transB")
    rows = node.op_type == "Conv" or (transposed is not None and transposed.as_int())
    return 0 if rows else 1


def _last_products(graph: ir.Graph, roles: Mapping[ir.Node, Role]) -> set[ir.Node]:
    """Products that give the graph's outputs, with nothing but arithmetic behind them.

    Decisions are made there: they compute in fp32. A LayerNorm ends the search.
    """

    def sources(value: ir.Value) -> list[ir.Value]:
        node = value.producer()
        if node is None or node.op_type == "LayerNormalization":
            return []
        return float_inputs(node) if roles[node] in (Role.ARITHMETIC, Role.LAYOUT) else []

    producers = {value.producer() for value in walk_back(graph.outputs, sources)}
    return {node for node in producers if node is not None and roles[node] is Role.PRODUCT}


def _add_layout(roles: Mapping[ir.Node, Role], half: set[ir.Node]) -> None:
    """Layout nodes take the type of what they read, or of what alone reads them."""
    layout = [node for node, role in roles.items() if role is Role.LAYOUT]
    for node in reversed(layout):
        output = node.outputs[0]
        consumers = output.consumers()
        if consumers and not output.is_graph_output() and half.issuperset(consumers):
            half.add(node)
    for node in layout:
        source = node.inputs[0]
        if source is not None and source.producer() in half:
            half.add(node)


def _large(graph: ir.Graph, products: Collection[ir.Node]) -> Iterator[ir.Value]:
    """The matrices of `products` that are a large part of the file."""
    total = sum(_size(value) for value in graph.initializers.values())
    for matrix in (node.inputs[1] for node in products):
        if matrix is not None and is_stored(matrix) and _size(matrix) > LARGE_SHARE * total:
            yield matrix


def _size(value: ir.Value | None) -> int:
    return 0 if value is None or value.shape is None else math.prod(value.shape.numpy())
