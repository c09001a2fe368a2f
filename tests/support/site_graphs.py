"""Small exported graphs with linear layers to quantize, and ways to run them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from numpy.typing import NDArray

from exporter.deberta.checkpoint import open_checkpoint
from exporter.graph.export import export_onnx
from exporter.graph.write import write_model
from exporter.model.task import LastLayer, Task
from exporter.runtime.providers.onnx_session import EXACT_INTEGERS
from support.random_models import random_config, random_inputs, random_model

Feeds = dict[str, NDArray[np.int64]]

SMALL: dict[str, Any] = {
    "hidden_size": 48,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "intermediate_size": 80,
    "vocab_size": 97,
    "hidden_act": "gelu",
    "relative_attention": True,
    "position_biased_input": False,
    "pos_att_type": ["c2p", "p2c"],
    "position_buckets": 7,
    "max_relative_positions": 20,
    "num_labels": 3,
    "conv_kernel_size": 0,
}


def export_random(
    folder: Path,
    task: Task = Task.SEQUENCE_CLASSIFICATION,
    seed: int = 3,
    last_layer: LastLayer = "full",
    **changes: Any,
) -> tuple[Path, dict[str, Any]]:
    """Export a random model; the path of the graph and the fields of its configuration."""
    fields, _ = random_config(seed)
    for name in ("attention_head_size", "embedding_size"):
        fields.pop(name, None)
    fields |= SMALL | changes
    torch.manual_seed(seed)
    random_model(fields, task, seed).save_pretrained(folder)
    path = folder / "model.onnx"
    export_onnx(open_checkpoint(folder, task), path, last_layer=last_layer)
    return path, fields


def feeds(
    fields: dict[str, Any], task: Task, batch: int = 5, length: int = 21, seed: int = 0
) -> Feeds:
    """Random ids with a ragged mask."""
    inputs = random_inputs(fields, task, batch, length, seed)
    return {name: tensor.numpy() for name, tensor in inputs.items()}


def exact_options() -> onnxruntime.SessionOptions:
    """Options of a quiet session with exact int8 products."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for key, value in EXACT_INTEGERS.items():
        options.add_session_config_entry(key, value)
    return options


def run(path: Path, inputs: Feeds, optimized: Path | None = None) -> list[NDArray[Any]]:
    """All outputs of a graph in ONNX Runtime; its optimized form goes to `optimized`."""
    options = exact_options()
    options.intra_op_num_threads = 1
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    outputs: list[NDArray[Any]] = session.run(None, inputs)
    return outputs


def run_model(model: ir.Model, folder: Path, inputs: Feeds) -> list[NDArray[Any]]:
    """Write a graph, check it in full, and run it."""
    path = folder / "written.onnx"
    write_model(model, path)
    onnx.checker.check_model(str(path), full_check=True)
    return run(path, inputs)


def values_of(
    path: Path,
    names: list[str],
    inputs: Feeds,
    options: onnxruntime.SessionOptions | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Values inside a graph, valid positions only, or the first of each text where there is no
    other: `(tokens, channels)`."""
    proto = onnx.load(str(path))
    for name in names:
        proto.graph.output.append(onnx.ValueInfoProto(name=name))
        proto.graph.output[-1].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options or exact_options(), providers=["CPUExecutionProvider"]
    )
    mask = inputs["attention_mask"].astype(bool)
    return {
        name: value[mask[:, : value.shape[1]]]
        for name, value in zip(names, session.run(names, inputs), strict=True)
    }
