"""NNCF post-training quantization: transformer scheme, SmoothQuant, bias correction.

Method: `onnx` gives a Q/DQ graph for ONNX Runtime; `openvino` an OpenVINO model, which runs here,
in OpenVINO with fp32 for what is not quantized. With `-accurate`, the slower, layer-wise bias
correction.
"""

from __future__ import annotations

import time
from typing import Any

import nncf
from common import Task, run
from openvino_cpu import logits_of


def _quantize(task: Task, model: Any) -> Any:
    return nncf.quantize(
        model,
        nncf.Dataset(task.calibration),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(task.calibration),
        fast_bias_correction=not task.method.endswith("-accurate"),
    )


def work(task: Task) -> dict[str, Any]:
    """Quantize with the backend that the method names."""
    if task.method.startswith("onnx"):
        import onnx

        onnx.save(_quantize(task, onnx.load(str(task.model))), str(task.output / "model.onnx"))
        return {"model": ["model.onnx"]}
    import openvino

    start = time.perf_counter()
    target = task.output / "model.xml"
    quantized = _quantize(task, openvino.convert_model(str(task.model)))
    openvino.save_model(quantized, target, compress_to_fp16=False)
    seconds = time.perf_counter() - start
    logits_of(target, task.test, "f32", task.output / "logits.npy")
    return {"model": ["model.xml", "model.bin"], "logits": "logits.npy", "seconds": seconds}


if __name__ == "__main__":
    run(work, ("nncf", "openvino", "onnx"))
