"""Decides which nodes take a half type: products, tables and attention whose values all fit it.

What is stored between kernels and what is multiplied is half; what happens in between (bias,
residual sum, LayerNorm, activation) is fp32, and a compiler fuses it with its casts. So LayerNorm
has fp32 statistics, and no sum of two values is formed in half.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

import onnx_ir as ir

from exporter.precision.half.fit import Fit, Kept
from exporter.precision.half.types import HalfType
from plugins.disentangled_attention import contract

LARGE_SHARE = 0.01
"""Share of the weights from which the matrix of the last product is stored in half."""


class Role(Enum):
    """Decides the types that a node may compute in."""

    PRODUCT = "product"
    """Activations times a stored matrix: what a GPU does in tensor cores, summing in fp32."""
    TABLE = "table"
    """Rows read from a stored table."""
    ATTENTION = "attention"
    """The operator, whose arithmetic is fp32 whatever its inputs are."""
    LAYOUT = "layout"
    """Moves values and leaves them as they are."""
    ARITHMETIC = "arithmetic"
    """All the rest: sums, LayerNorm, activations, quantization. Computes in fp32."""


_PRODUCTS = frozenset({"MatMul", "Gemm", "Conv"})
_LAYOUT = frozenset(
    {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Flatten", "Identity", "Gather"}
)


def role_of(node: ir.Node) -> Role:
    """The role of a node in a graph whose float values are fp32."""
    if (node.domain, node.op_type) == (contract.DOMAIN, contract.OP_TYPE):
        return Role.ATTENTION
    if node.domain:
        return Role.ARITHMETIC
    if node.op_type in _PRODUCTS and not is_stored(node.inputs[0]) and is_stored(node.inputs[1]):
        return Role.PRODUCT
    if node.op_type == "Gather" and is_stored(node.inputs[0]):
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


def float_inputs(node: ir.Node) -> list[ir.Value]:
    """The fp32 inputs of a node, in order."""
    return [value for value in node.inputs if value is not None and is_float(value)]


@dataclass(frozen=True)
class HalfPlan:
    """What to convert.

    Attributes:
        nodes: nodes that compute in half, layout nodes between them included.
        stored: initializers stored in half.
        kept: what stays in fp32 because of its range.
        kept_share: share of the weights of all products that stays in fp32 for that reason.
    """

    nodes: frozenset[ir.Node]
    stored: frozenset[ir.Value]
    kept: tuple[Kept, ...]
    kept_share: float


def plan_half(graph: ir.Graph, half: HalfType, fit: Fit | None) -> HalfPlan:
    """Choose the nodes of an fp32 graph that take a half type.

    Args:
        graph: the main graph, every float value of it fp32.
        half: the type.
        fit: judges values and matrices; None where everything fits.
    """
    roles = {node: role_of(node) for node in graph}
    last = set(_last_products(graph, roles))
    chosen = [
        node
        for node, role in roles.items()
        if role in (Role.PRODUCT, Role.TABLE, Role.ATTENTION)
        and node not in last
        and not (node.op_type == "Conv" and half.name == "bf16")  # ONNX has it from opset 22
    ]
    verdicts = _Verdicts(roles, fit)
    if fit is not None:
        for node in chosen:
            verdicts.judge(node)
    nodes = {node for node in chosen if verdicts.fits(node)}
    kept_nodes = [node for node in chosen if node not in nodes]
    _add_layout(graph, roles, nodes)
    stored = {value for node in nodes for value in float_inputs(node) if is_stored(value)}
    stored |= {matrix for matrix in _large(graph, last) if verdicts.fits_stored(matrix)}
    return HalfPlan(
        nodes=frozenset(nodes),
        stored=frozenset(stored),
        kept=tuple(verdicts.kept.values()),
        kept_share=_share(roles, kept_nodes, chosen),
    )


class _Verdicts:
    """What does not fit, found node by node."""

    def __init__(self, roles: dict[ir.Node, Role], fit: Fit | None) -> None:
        self._roles = roles
        self._fit = fit
        self._judged: set[ir.Value] = set()
        self.kept: dict[ir.Value, Kept] = {}

    def fits(self, node: ir.Node) -> bool:
        """Whether all that a node reads and gives fits, after every node was judged."""
        return not any(value in self.kept for value in (*float_inputs(node), *node.outputs))

    def fits_stored(self, value: ir.Value) -> bool:
        """Whether an initializer fits by itself."""
        return self._fit is None or self._fit.judge_stored(value) is None

    def judge(self, node: ir.Node) -> None:
        """Judge what a node reads and gives."""
        if self._fit is None:
            return
        matrix = node.inputs[1] if self._roles[node] is Role.PRODUCT else None
        for value in (*float_inputs(node), *node.outputs):
            if value is matrix or value in self._judged:
                continue
            self._judged.add(value)
            judge = self._fit.judge_stored if is_stored(value) else self._fit.judge_value
            self._keep(value, judge(value))
        if matrix is not None:
            self._judge_product(node, matrix, self._fit)

    def _judge_product(self, node: ir.Node, matrix: ir.Value, fit: Fit) -> None:
        """Keep a matrix or an input whose small elements the product depends on."""
        source, product = node.inputs[0], node.outputs[0]
        assert source is not None
        figures = fit.matrix(matrix, _output_axis(node))
        self._keep(matrix, fit.judge_stored(matrix, figures.absmax))
        if fit.loses_weights(source, figures, product):
            self._keep(matrix, fit.small_weights(matrix, figures, source))
        if fit.loses_inputs(figures, product):
            for value in self._carriers(source):
                self._keep(value, fit.small_elements(value, matrix, figures))

    def _carriers(self, value: ir.Value) -> Iterator[ir.Value]:
        """`value` and what its elements come from, back to a product, a table or a LayerNorm."""
        queue, seen = deque([value]), {value}
        while queue:
            current = queue.popleft()
            yield current
            node = current.producer()
            ends = node is None or self._roles[node] in (Role.PRODUCT, Role.TABLE)
            if node is None or ends or node.op_type == "LayerNormalization":
                continue
            sources = float_inputs(node)
            # Of the operator's inputs only the first carries values through it.
            for source in sources[:1] if self._roles[node] is Role.ATTENTION else sources:
                if source not in seen and not is_stored(source):
                    seen.add(source)
                    queue.append(source)

    def _keep(self, value: ir.Value, kept: Kept | None) -> None:
        if kept is not None:
            self.kept.setdefault(value, kept)


def _output_axis(node: ir.Node) -> int:
    """The axis of a product's matrix that counts its outputs."""
    if node.op_type == "Conv":
        return 0
    transposed = node.attributes.get("transB")
    return 0 if transposed is not None and transposed.as_int() else 1


def _last_products(graph: ir.Graph, roles: dict[ir.Node, Role]) -> Iterator[ir.Node]:
    """Products that give the graph's outputs, with nothing but arithmetic behind them.

    Decisions are made there: they compute in fp32. A LayerNorm ends the search.
    """
    queue, seen = deque(graph.outputs), set(graph.outputs)
    while queue:
        node = queue.popleft().producer()
        if node is None or node.op_type == "LayerNormalization":
            continue
        if roles[node] is Role.PRODUCT:
            yield node
        if roles[node] not in (Role.ARITHMETIC, Role.LAYOUT):
            continue
        for value in float_inputs(node):
            if value not in seen:
                seen.add(value)
                queue.append(value)


def _add_layout(graph: ir.Graph, roles: dict[ir.Node, Role], half: set[ir.Node]) -> None:
    """Layout nodes take the type of what they read, or of what alone reads them."""
    layout = [node for node, role in roles.items() if role is Role.LAYOUT]
    for node in reversed(layout):
        output = node.outputs[0]
        consumers = output.consumers()
        if consumers and not output.is_graph_output() and all(c in half for c in consumers):
            half.add(node)
    for node in layout:
        source = node.inputs[0]
        if source is not None and source.producer() in half:
            half.add(node)


def _large(graph: ir.Graph, products: Iterable[ir.Node]) -> Iterator[ir.Value]:
    """The matrices of `products` that are a large part of the file."""
    total = sum(_size(value) for value in graph.initializers.values())
    for node in products:
        matrix = node.inputs[1]
        if matrix is not None and is_stored(matrix) and _size(matrix) > LARGE_SHARE * total:
            yield matrix


def _share(roles: dict[ir.Node, Role], kept: Iterable[ir.Node], chosen: Iterable[ir.Node]) -> float:
    """Weights of the products in `kept` over those in `chosen`."""

    def weights(nodes: Iterable[ir.Node]) -> int:
        products = (node.inputs[1] for node in nodes if roles[node] is Role.PRODUCT)
        return sum(_size(matrix) for matrix in products if matrix is not None)

    total = weights(chosen)
    return weights(kept) / total if total else 0.0


def _size(value: ir.Value) -> int:
    return math.prod(value.shape.numpy()) if value.shape is not None else 0
