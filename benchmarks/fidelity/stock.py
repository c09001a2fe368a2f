"""The fp32 model of `transformers`: its answers, and the stock ONNX export for the peers."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DebertaV2ForSequenceClassification

from benchmarks.fidelity.metrics import Logits
from benchmarks.fidelity.sentences import Ids, batches
from exporter.runtime.providers.onnx_session import EXACT_INTEGERS

BATCH = 16


class _LogitsOnly(torch.nn.Module):
    """Two tensors in, one out."""

    def __init__(self, model: DebertaV2ForSequenceClassification) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes) for (B, S) int64 inputs."""
        logits: torch.Tensor = self.model(input_ids, attention_mask=attention_mask).logits
        return logits


@torch.no_grad()
def reference_logits(checkpoint: Path, rows: Sequence[Ids]) -> Logits:
    """fp32 logits `(N, classes)` of `transformers` in PyTorch."""
    model = DebertaV2ForSequenceClassification.from_pretrained(checkpoint, dtype=torch.float32)
    logits: list[Logits] = [np.zeros(0, np.float32)] * len(rows)
    for indices, feeds in batches(rows, BATCH):
        tensors = {name: torch.from_numpy(values) for name, values in feeds.items()}
        for index, value in zip(indices, model(**tensors).logits.numpy(), strict=True):
            logits[index] = value
    return np.stack(logits)


@torch.no_grad()
def export(checkpoint: Path, path: Path) -> None:
    """Write the graph that `torch.onnx.export` makes of the `transformers` model, in one file."""
    model = DebertaV2ForSequenceClassification.from_pretrained(checkpoint, dtype=torch.float32)
    ids = torch.ones(2, 7, dtype=torch.int64)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    # The exporter prints its progress in spite of verbose=False.
    with contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(
            _LogitsOnly(model).eval(),
            (ids, torch.ones_like(ids)),
            str(path),
            dynamo=True,
            external_data=False,
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_shapes=(axes, axes),
            verbose=False,
        )


def onnx_logits(path: Path, rows: Sequence[Ids], batch: int = BATCH) -> Logits:
    """Logits `(N, classes)` of an ONNX file in ONNX Runtime on the CPU."""
    session = _session(path)
    logits: list[Logits] = [np.zeros(0, np.float32)] * len(rows)
    for indices, feeds in batches(rows, batch):
        (values,) = session.run(["logits"], feeds)
        for index, value in zip(indices, values, strict=True):
            logits[index] = np.asarray(value, np.float32)
    return np.stack(logits)


def _session(path: Path) -> Any:
    """Exact int8 products on any processor, ours and the peers' alike.

    ONNX Runtime 1.32 fails to open some graphs with the option for it. Those run as they are
    written, each Q/DQ pair in fp32, which is exact too.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1  # the models are small; more threads mostly wait
    providers = ["CPUExecutionProvider"]
    for key, value in EXACT_INTEGERS.items():
        options.add_session_config_entry(key, value)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except onnxruntime.capi.onnxruntime_pybind11_state.Fail:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return onnxruntime.InferenceSession(str(path), options, providers=providers)


def versions() -> dict[str, str]:
    """Packages behind the stock graph and the reference."""
    return {name: version(name) for name in ("torch", "transformers", "onnxruntime")}
