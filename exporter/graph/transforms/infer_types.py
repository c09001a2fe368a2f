"""The type of every value of a graph, which the tracer does not write for all of them."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass


def infer_types(model: ir.Model) -> None:
    """Infer types and shapes of the main graph in place; no large weight is read.

    Raises:
        ValueError: the graph is not well typed.
    """
    ShapeInferencePass()(model)
    for node in model.graph:
        for output in node.outputs:
            if output.dtype is None:
                raise ValueError(f"the type of {output.name!r} cannot be inferred")
