"""OpenVINO on the CPU in a precision of its own choice. Method: `f32`, `bf16` or `f16`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from common import Task, batches, run

BATCH = 16


def logits_of(model: Path, rows: list[np.ndarray], precision: str, target: Path) -> None:
    """Write the logits `(N, classes)` that OpenVINO computes with an inference precision.

    Raises:
        RuntimeError: the CPU has no arithmetic of that precision.
    """
    import openvino
    from openvino import properties

    core = openvino.Core()
    able = core.get_property("CPU", properties.device.capabilities())
    if {"f32": "FP32", "bf16": "BF16", "f16": "FP16"}[precision] not in able:
        raise RuntimeError(f"the CPU has no {precision} arithmetic: it has {', '.join(able)}")
    compiled = core.compile_model(str(model), "CPU", {"INFERENCE_PRECISION_HINT": precision})
    logits: list[np.ndarray] = [np.zeros(0, np.float32)] * len(rows)
    for indices, feeds in batches(rows, BATCH):
        values = compiled(feeds)[0]
        for index, value in zip(indices, values, strict=True):
            logits[index] = np.array(value, np.float32)
    np.save(target, np.stack(logits))


def work(task: Task) -> dict[str, Any]:
    """Run the stock graph; nothing is converted ahead of time, so the file is the stock one."""
    logits_of(task.model, task.test, task.method, task.output / "logits.npy")
    return {"model": [], "logits": "logits.npy", "seconds": 0.0}


if __name__ == "__main__":
    run(work, ("openvino",))
