"""The operator's body replaced by the one around ONNX's `Attention`, for an engine alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import onnx_ir as ir

from exporter.artifact.onnx_file import open_onnx
from exporter.errors import InputError
from exporter.graph.attention_body import STANDARD_OPSET, Storage, standard_attention_function
from exporter.graph.attention_nodes import (
    attention_nodes,
    attention_shape,
    set_functions,
    widened_terms,
)
from plugins.disentangled_attention import contract

_STORAGES: dict[ir.DataType | None, Storage] = {
    ir.DataType.FLOAT16: "fp16",
    ir.DataType.BFLOAT16: "bf16",
}


def pays(source: Path) -> bool:
    """Whether this body is better for an engine than the graph's own; `docs/tensorrt.md` says why.

    It is where all terms of the scores are computed in half precision: one kernel takes the
    operator, and reads one bias in place of two terms in fp32. In fp32 it is taken apart. Of
    a graph that is not ours the answer is no.

    Raises:
        InputError: not an ONNX file.
    """
    model = ir.from_proto(open_onnx(source))
    tables = [value for node in attention_nodes(model) for value in node.inputs[1:3]]
    half = bool(tables) and all(value is not None and value.dtype in _STORAGES for value in tables)
    return half and not widened_terms(model)


def swap_body(source: Path, target: Path) -> int:
    """Write the graph in `source` to `target`, its attention as the standard operator.

    `target` must be beside `source`, since weights in files of their own stay there.

    Returns:
        The number of attention nodes.

    Raises:
        InputError: the graph has no attention of ours, was made by another version, or keeps score
            terms in fp32, which its storage type cannot hold.
    """
    model = ir.from_proto(open_onnx(source))
    nodes = attention_nodes(model)
    if not nodes:
        raise InputError(f"{source}: has no {contract.OP_TYPE}; use a graph of deb-export build")
    kept = widened_terms(model)
    if kept:
        raise InputError(
            f"{source}: keeps {', '.join(kept)} of the attention in fp32, which --attention "
            "standard would sum in the graph's type; use --attention graph"
        )
    try:
        shape = attention_shape(model)
    except (KeyError, ValueError):
        raise InputError(f"{source}: attention of another version; build the graph again") from None
    # Nodes that stay in fp32 in a graph of half take a body that follows their type.
    types = {value.dtype for node in nodes for value in node.inputs[1:3] if value is not None}
    halves = [name for dtype, name in _STORAGES.items() if dtype in types]
    make = partial(standard_attention_function, shape, halves[0] if halves else "fp32")
    set_functions(model, make)
    # Older operators of the main graph mean the same in opset 23.
    model.opset_imports[""] = max(model.opset_imports[""], STANDARD_OPSET)
    ir.save(model, target)
    return len(nodes)
