"""ONNX Runtime's `quantize_dynamic`: int8 weights per channel, activation ranges at run time."""

from __future__ import annotations

from typing import Any

from common import Task, run
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process


def work(task: Task) -> dict[str, Any]:
    """Quantize. A range is that of the whole batch, so results need batches of one."""
    prepared = task.output / "prepared.onnx"
    quant_pre_process(str(task.model), str(prepared))
    target = task.output / "model.onnx"
    quantize_dynamic(str(prepared), str(target), per_channel=True, weight_type=QuantType.QInt8)
    return {"model": ["model.onnx"], "batch": 1}


if __name__ == "__main__":
    run(work, ("onnxruntime", "onnx"))
