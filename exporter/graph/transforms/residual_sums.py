"""The sums before LayerNorms written as `Sum`, which means the same as `Add`.

ONNX Runtime turns `Add` and `LayerNormalization` into one `SkipLayerNormalization`, whose CPU
kernel takes four times the time of the two it replaces (1.32, `docs/cpu-performance.md`).
"""

from __future__ import annotations

import onnx_ir as ir


def write_residual_sums(model: ir.Model) -> int:
    """Make `Sum` of every `Add` of two activations that only a LayerNorm reads; count them."""
    changed = 0
    for node in model.graph:
        if node.op_type == "Add" and not node.domain and _is_residual(node):
            node.op_type = "Sum"
            changed += 1
    return changed


def _is_residual(node: ir.Node) -> bool:
    readers = node.outputs[0].consumers()
    return (
        [reader.op_type for reader in readers] == ["LayerNormalization"]
        and readers[0].inputs[0] is node.outputs[0]
        and not any(value is None or value.is_initializer() for value in node.inputs)
    )
