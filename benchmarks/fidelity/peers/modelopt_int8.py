"""NVIDIA ModelOpt's ONNX int8 quantization. Method: `entropy` or `max`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from common import Task, padded, run
from modelopt.onnx.quantization import quantize
from onnxruntime.quantization import CalibrationDataReader


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """One sentence at a time, as often as asked."""

    def __init__(self, feeds: list[dict[str, np.ndarray]]) -> None:
        self._all = feeds
        self._feeds: Iterator[dict[str, np.ndarray]] = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next sentence's inputs; None at the end."""
        return next(self._feeds, None)

    def get_first(self) -> dict[str, np.ndarray]:
        """The first sentence's inputs."""
        return self._all[0]

    def rewind(self) -> None:
        """Start again."""
        self._feeds = iter(self._all)


def work(task: Task) -> dict[str, Any]:
    """Quantize; where the collector fails on different lengths, with padded sentences."""
    note = ""
    try:
        _quantize(task, task.calibration)
    except Exception as error:
        print(f"different lengths: {type(error).__name__}: {error}")
        note = f"calibration padded to one length: on different ones {type(error).__name__}"
        _quantize(task, padded(task.calibration))
    return {"model": ["model.onnx"], "note": note}


def _quantize(task: Task, feeds: list[dict[str, np.ndarray]]) -> None:
    quantize(
        str(task.model),
        quantize_mode="int8",
        calibration_data_reader=Reader(feeds),
        calibration_method=task.method,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(task.output / "model.onnx"),
    )


if __name__ == "__main__":
    run(work, ("nvidia-modelopt", "onnxruntime", "onnxruntime-gpu", "onnx"))
