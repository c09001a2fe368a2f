"""ONNX Runtime's `quantize_static`: Q/DQ, per-channel weights, on the linear layers.

Method: `minmax`, `entropy` or `percentile`; with `-all`, every operator type that the tool
quantizes by default instead of the linear layers alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import Task, padded, run
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """One sentence at a time."""

    def __init__(self, feeds: list[dict[str, np.ndarray]]) -> None:
        self._feeds: Iterator[dict[str, np.ndarray]] = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next sentence's inputs; None at the end."""
        return next(self._feeds, None)


def quantize(model: Path, target: Path, feeds: list[dict[str, np.ndarray]], method: str) -> None:
    """Quantize `model` to `target`."""
    name, _, placement = method.partition("-")
    linear_only: dict[str, Any] = {
        "op_types_to_quantize": ["MatMul", "Gemm"],
        "extra_options": {"MatMulConstBOnly": True},
    }
    quantize_static(
        str(model),
        str(target),
        Reader(feeds),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=METHODS[name],
        **({} if placement == "all" else linear_only),
    )


def work(task: Task) -> dict[str, Any]:
    """Quantize; where the collector fails on different lengths, with padded sentences."""
    prepared = task.output / "prepared.onnx"
    quant_pre_process(str(task.model), str(prepared))
    target = task.output / "model.onnx"
    note = ""
    try:
        quantize(prepared, target, task.calibration, task.method)
    except Exception as error:
        print(f"different lengths: {type(error).__name__}: {error}")
        note = f"calibration padded to one length: on different ones {type(error).__name__}"
        quantize(prepared, target, padded(task.calibration), task.method)
    return {"model": ["model.onnx"], "note": note}


if __name__ == "__main__":
    run(work, ("onnxruntime", "onnx"))
