"""deb-export's side: one build for each precision, through its public interface."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import exporter
from exporter.errors import DebExportError
from fidelity.metrics import Logits
from fidelity.result import Result, Unavailable
from fidelity.sentences import Ids, batches

BATCH = 16
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")


def measure(
    checkpoint: Path, precision: str, calibration: Path, output: Path, rows: Sequence[Ids]
) -> Result:
    """Build an artifact of the checkpoint and run it on the test sentences.

    Args:
        checkpoint: the model.
        precision: one of `PRECISIONS`.
        calibration: UTF-8 file, one sentence a line.
        output: artifact folder; replaced.
        rows: token ids of the test sentences.

    Raises:
        Unavailable: the build or the run fails; the message is the project's own.
    """
    options: dict[str, Any] = {"model": checkpoint, "output": output, "force": True}
    known = {field.name for field in fields(exporter.BuildConfig)}
    if precision != "fp32" and "calibration_data" in known:
        options["calibration_data"] = calibration
    start = time.perf_counter()
    try:
        manifest = exporter.build(exporter.BuildConfig(precision=precision, **options))
        seconds = time.perf_counter() - start
        logits = artifact_logits(output, rows)
    except DebExportError as error:
        raise Unavailable(str(error).splitlines()[0]) from None
    return Result(
        logits=logits,
        bytes=sum(path.stat().st_size for path in output.glob("model.onnx*")),
        seconds=seconds,
        versions={name: version(name) for name in ("deb-export", "onnxruntime")},
        note="" if manifest.passed else "outside the limits of its own parity check",
    )


def artifact_logits(folder: Path, rows: Sequence[Ids]) -> Logits:
    """Logits `(N, classes)` of an artifact on the CPU."""
    session = exporter.load(folder, threads=1)
    logits: list[Logits] = [np.zeros(0, np.float32)] * len(rows)
    for indices, feeds in batches(rows, BATCH):
        values = session.run(**feeds)["logits"]
        for index, value in zip(indices, values, strict=True):
            logits[index] = np.asarray(value, np.float32)
    session.close()
    return np.stack(logits)
