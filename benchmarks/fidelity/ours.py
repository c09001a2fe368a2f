"""deb-export's side: a build for each method, through its public interface."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import exporter
from benchmarks.fidelity.metrics import Logits
from benchmarks.fidelity.result import Result, Unavailable
from benchmarks.fidelity.sentences import Ids, batches
from exporter.artifact.manifest import MODEL_FILE
from exporter.errors import DebExportError
from exporter.precision.quantized.quantization_options import QuantizationOptions
from exporter.runtime.load import artifact_shape
from exporter.runtime.providers.rounded_session import open_rounded
from exporter.runtime.session import Session

BATCH = 16
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "fp32": ("fp32", {}),
    "fp16": ("fp16", {}),
    "bf16": ("bf16", {}),
    "int8": ("int8", {}),
    "int8-weights8": ("int8", {"weight_bits": 8}),
    "int8-fp16": ("int8", {"weight_bits": 8, "rest": "fp16"}),
    "int8-budget": ("int8", {"weight_bits": 8, "accuracy_budget": 1e-6}),
    "fp8": ("fp8", {}),
    "int8-float-tables": ("int8", {"quantize_embeddings": False}),
    "int8-weights8-float-tables": ("int8", {"weight_bits": 8, "quantize_embeddings": False}),
    "fp8-float-tables": ("fp8", {"quantize_embeddings": False}),
}
"""Precision and options of quantization of each of our methods."""
METHODS = tuple(VARIANTS)


def measure(
    checkpoint: Path, method: str, calibration: Path, output: Path, rows: Sequence[Ids]
) -> Result:
    """Build an artifact of the checkpoint and run it on the test sentences.

    Args:
        checkpoint: the model.
        method: one of `METHODS`.
        calibration: UTF-8 file, one sentence a line.
        output: artifact folder; replaced.
        rows: token ids of the test sentences.

    Raises:
        Unavailable: the build or the run fails; the message is the project's own.
    """
    precision, options = VARIANTS[method]
    shutil.rmtree(output, ignore_errors=True)  # and no scale table of an earlier run
    config = exporter.BuildConfig(
        model=checkpoint,
        output=output,
        precision=precision,
        targets=("onnx",),
        calibration_data=None if precision == "fp32" else calibration,
        quantization=QuantizationOptions(**options),
    )
    start = time.perf_counter()
    try:
        manifest = exporter.build(config)
        seconds = time.perf_counter() - start
        logits = artifact_logits(output, manifest, rows)
    except DebExportError as error:
        raise Unavailable(str(error).splitlines()[0]) from None
    return Result(
        logits=logits,
        bytes=sum(path.stat().st_size for path in output.glob("model.onnx*")),
        seconds=seconds,
        versions=_versions(),
        note=_note(manifest),
    )


def _note(manifest: exporter.Manifest) -> str:
    notes = [] if manifest.passed else [f"not passed: {'; '.join(manifest.parity.failures)}"]
    facts = manifest.graph.get("quantization")
    if facts is not None:
        floats = [layer["name"] for layer in facts["layers"] if layer["choice"] == "float"]
        if floats:
            names = ", ".join(name.split("encoder.")[-1] for name in floats)
            notes.append(f"in float: {names}")
    return "; ".join(notes)


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("deb-export", "onnxruntime")}


def artifact_logits(folder: Path, manifest: exporter.Manifest, rows: Sequence[Ids]) -> Logits:
    """Logits `(N, classes)` of an artifact on the CPU.

    fp16 runs with the rounding of every value to half that a device has: ONNX Runtime's CPU
    provider leaves it out, which would flatter the figures. bf16 has it from `load`.
    """
    if manifest.half == "fp16":
        session: Session = open_rounded(folder / MODEL_FILE, artifact_shape(folder, manifest))
    else:
        session = exporter.load(folder, threads=1)
    logits: list[Logits] = [np.zeros(0, np.float32)] * len(rows)
    for indices, feeds in batches(rows, BATCH):
        values = session.run(**feeds)["logits"]
        for index, value in zip(indices, values, strict=True):
            logits[index] = np.asarray(value, np.float32)
    session.close()
    return np.stack(logits)
