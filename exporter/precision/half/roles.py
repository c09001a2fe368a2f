"""What each node of the main graph is to a change of precision."""

from __future__ import annotations

from enum import Enum

import onnx_ir as ir

from plugins.disentangled_attention import contract


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
