"""A checkpoint becomes a portable ONNX file: trace, fold, attach the function, check, write."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import onnx_ir as ir

from exporter.artifact.onnx_file import CONFIG_KEY, PRECISION_KEY, TASK_KEY
from exporter.deberta.checkpoint import Checkpoint
from exporter.deberta.heads import encoder_of
from exporter.graph.attention_body import AttentionShape, Reading, attention_function
from exporter.graph.attention_nodes import set_functions
from exporter.graph.export_form import export_form
from exporter.graph.finish import GraphSummary, finish
from exporter.graph.trace import OPSET, trace
from exporter.graph.transforms.fold_transposes import fold_transposes
from exporter.graph.transforms.residual_sums import write_residual_sums
from exporter.graph.transforms.share_weights import share_weights
from exporter.model.task import LastLayer
from exporter.progress import Progress, silent

IR_VERSION = 10
"""Read by ONNX Runtime 1.20 and newer, and by onnx 1.16."""

_MATRICES = 4  # of a layer that `torch` stores transposed: packed projections, three dense ones
_SUMS = 2  # residual ones of a layer: behind the attention and at its end


def export_onnx(
    checkpoint: Checkpoint,
    path: Path,
    *,
    external_data: bool | None = None,
    metadata: dict[str, str] | None = None,
    reading: Reading = "gather",
    last_layer: LastLayer = "full",
    progress: Progress = silent,
) -> GraphSummary:
    """Export a checkpoint to a portable fp32 graph with dynamic batch and length.

    Weights go from the checkpoint to the file one tensor at a time.

    Args:
        external_data: whether weights go to `<path>.data`; by default, when they exceed 1 GiB.
        metadata: entries to add to the model's metadata, such as the hash of the vocabulary.
        reading: how the attention's body reads position terms; both are right for every length.
        last_layer: what is computed of the last layer, see `exporter.model.task.LastLayer`.

    Raises:
        InputError: a weight file is broken or holds NaN, or the head reads more of the last layer.
        OSError: the file cannot be written.
    """
    progress("tracing")
    config = checkpoint.config
    form = export_form(checkpoint, last_layer)
    model = trace(form, checkpoint.shape)
    layers = config.num_hidden_layers
    share_weights(model, checkpoint.sources)
    _check_count("fold_transposes", fold_transposes(model), _MATRICES * layers)
    _check_count("write_residual_sums", write_residual_sums(model), _SUMS * layers)
    shape = AttentionShape(
        num_heads=config.num_attention_heads,
        head_size=config.head_size,
        scale=config.attention_scale,
        c2p=config.c2p,
        p2c=config.p2c,
        saturation=(encoder_of(form.model).slots.numel() - 1) // 2,
        reading=reading,
    )
    set_functions(model, lambda queries: attention_function(shape, OPSET, queries=queries))
    _describe(model, checkpoint, metadata or {})
    progress("checking")
    return finish(model, path, layers, external_data=external_data, progress=progress)


def _check_count(transform: str, found: int, expected: int) -> None:
    """Fail where a transform missed a layer; embeddings, convolution and head have more for it."""
    if found < expected:
        raise RuntimeError(f"{transform} changed {found} nodes; the layers have {expected}")


def _describe(model: ir.Model, checkpoint: Checkpoint, metadata: dict[str, str]) -> None:
    """Say in the file what made it and from what; drop the tracer's notes on each node."""
    model.ir_version = IR_VERSION
    model.producer_name = "deb-export"
    model.producer_version = version("deb-export")
    model.graph.name = f"deberta-v2 {checkpoint.task}"
    model.metadata_props.clear()
    model.metadata_props.update(
        {
            CONFIG_KEY: json.dumps(checkpoint.config.to_dict(), sort_keys=True),
            TASK_KEY: str(checkpoint.task),
            PRECISION_KEY: "fp32",
            "deb_export.producer_version": model.producer_version,
            **metadata,
        }
    )
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for output in node.outputs:
            output.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
