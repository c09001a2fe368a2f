"""A graph checked, written, and counted up: the end of every way to a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from exporter.graph.attention_nodes import attention_nodes
from exporter.graph.write import skeleton, write_model
from exporter.progress import Progress, silent


@dataclass(frozen=True)
class GraphSummary:
    """What a written graph has; nodes and initializers of the main graph."""

    opset: int
    nodes: int
    attention_nodes: int
    initializers: int
    weight_bytes: int
    files: tuple[Path, ...]


def finish(
    model: ir.Model,
    path: Path,
    num_layers: int,
    *,
    external_data: bool | None = None,
    progress: Progress = silent,
) -> GraphSummary:
    """Check a graph, with an attention node for each layer, and write it as `write_model` does.

    Raises:
        RuntimeError, onnx.checker.ValidationError: see `check_graph`.
        InputError: an initializer's source is broken.
        OSError: the file cannot be written.
    """
    check_graph(model, num_layers)
    files, weight_bytes = write_model(
        model,
        path,
        external_data=external_data,
        progress=lambda done, total: progress(f"writing {100 * done // max(total, 1)} %"),
    )
    opset, nodes, initializers = model.opset_imports[""], len(model.graph), model.graph.initializers
    return GraphSummary(opset, nodes, num_layers, len(initializers), weight_bytes, files)


def check_graph(model: ir.Model, num_layers: int) -> None:
    """Check a graph before its weights are written.

    `onnx.checker` runs in full, with shape inference, on the graph with its initializers declared
    as inputs: their types and shapes count, their bytes would only fill memory.

    Raises, for defects of the export:
        RuntimeError: the number of attention nodes is not the number of layers.
        onnx.checker.ValidationError: the graph is not valid ONNX.
    """
    found = len(attention_nodes(model))
    if found != num_layers:
        raise RuntimeError(f"the graph has {found} attention nodes for {num_layers} layers")
    proto = skeleton(model)
    proto.graph.input.extend(ir.to_proto(value) for value in model.graph.initializers.values())
    onnx.checker.check_model(proto, full_check=True)
