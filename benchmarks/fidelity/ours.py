"""deb-export's side: one build for each precision, through its public interface."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import exporter
from calibration.data import read_examples
from calibration.errors import CalibrationError
from calibration.formats import NumberFormat
from exporter.config import PRECISIONS
from exporter.deberta.checkpoint import open_checkpoint
from exporter.errors import DebExportError
from exporter.graph.export import export_onnx
from exporter.graph.precision.quantized_file import QuantizeConfig, prepare_text, quantize_file
from exporter.runtime.feeds import ModelShape
from exporter.runtime.load import MODEL_FILE, artifact_shape, text_encoder
from exporter.runtime.rounded_session import open_rounded
from exporter.runtime.session import Session
from fidelity.metrics import Logits
from fidelity.result import Result, Unavailable
from fidelity.sentences import Ids, batches
from fidelity.stock import onnx_logits

BATCH = 16
METHODS = ("fp32", "fp16", "bf16", "int8", "fp8")


def measure(
    checkpoint: Path, precision: str, calibration: Path, output: Path, rows: Sequence[Ids]
) -> Result:
    """Build an artifact of the checkpoint and run it on the test sentences.

    Args:
        checkpoint: the model.
        precision: one of `METHODS`.
        calibration: UTF-8 file, one sentence a line.
        output: artifact folder; replaced.
        rows: token ids of the test sentences.

    Raises:
        Unavailable: the build or the run fails; the message is the project's own.
    """
    if precision not in PRECISIONS:
        return _quantize(checkpoint, precision, calibration, output, rows)
    options: dict[str, Any] = {
        "model": checkpoint,
        "output": output,
        "targets": ("onnx",),
        "force": True,
    }
    known = {field.name for field in fields(exporter.BuildConfig)}
    if precision != "fp32" and "calibration_data" in known:
        options["calibration_data"] = calibration
    start = time.perf_counter()
    try:
        manifest = exporter.build(exporter.BuildConfig(precision=precision, **options))
        seconds = time.perf_counter() - start
        logits = artifact_logits(output, manifest, precision, rows)
    except DebExportError as error:
        raise Unavailable(str(error).splitlines()[0]) from None
    return Result(
        logits=logits,
        bytes=sum(path.stat().st_size for path in output.glob("model.onnx*")),
        seconds=seconds,
        versions=_versions(),
        note="" if manifest.passed else "outside the limits of its own parity check",
    )


def _quantize(
    checkpoint: Path, precision: str, calibration: Path, output: Path, rows: Sequence[Ids]
) -> Result:
    """The stages of a quantized build, for versions whose `build` does not reach them yet."""
    start = time.perf_counter()
    try:
        opened = open_checkpoint(checkpoint)
        shape = ModelShape(opened.config, opened.task)
        encoder = text_encoder(checkpoint, opened.task, opened.config.max_position_embeddings)
        if encoder is None:
            raise Unavailable(f"{checkpoint}: no tokenizer to calibrate with")
        text = prepare_text(encoder, shape, read_examples(calibration).examples)
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        export_onnx(opened, output / "fp32.onnx", external_data=True)
        target = output / "model.onnx"
        config = QuantizeConfig(NumberFormat(precision))
        quantize_file(output / "fp32.onnx", target, shape, text, config, model_hash="benchmark")
        seconds = time.perf_counter() - start
    except (DebExportError, CalibrationError) as error:
        raise Unavailable(str(error).splitlines()[0]) from None
    return Result(
        logits=onnx_logits(target, rows),
        bytes=target.stat().st_size,
        seconds=seconds,
        versions=_versions(),
        note="without the parity check",
    )


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("deb-export", "onnxruntime")}


def artifact_logits(
    folder: Path, manifest: exporter.Manifest, precision: str, rows: Sequence[Ids]
) -> Logits:
    """Logits `(N, classes)` of an artifact on the CPU.

    fp16 runs with the rounding of every value to half that a device has: ONNX Runtime's CPU
    provider leaves it out, which would flatter the figures. bf16 has it from `load`.
    """
    if precision == "fp16":
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
