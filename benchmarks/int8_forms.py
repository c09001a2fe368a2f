"""Which way of writing an int8 linear layer ONNX Runtime's CPU provider runs fastest.

Each form is one layer in explicit Q/DQ with symmetric activations, per-channel weights and a float
bias. A form counts only if the optimized graph multiplies integers; its operators are printed.

    python -m benchmarks.int8_forms --threads 1
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

SHAPES = ((768, 2304), (768, 768), (768, 3072), (3072, 768))
BATCHES = ((1, 32), (8, 64))
SECONDS = 1.0
INTEGER = {"MatMulIntegerToFloat", "QLinearMatMul", "QGemm"}


class Layer:
    """Builds the nodes of one form. `zero` is the zero point of the activations."""

    def __init__(self, rows: int, columns: int, zero: Any) -> None:
        rng = np.random.default_rng(0)
        weight = rng.normal(0, 0.05, (rows, columns)).astype(np.float32)
        scale = np.abs(weight).max(axis=0) / np.float32(127)
        self.rows, self.columns = rows, columns
        self.nodes: list[onnx.NodeProto] = []
        self.arrays: dict[str, Any] = {
            "weight": weight,
            "stored": np.rint(weight / scale).astype(np.int8),
            "weight_scale": scale,
            "bias": rng.normal(0, 0.1, columns).astype(np.float32),
            "bias32": rng.integers(-1000, 1000, columns).astype(np.int32),
            "scale": np.float32(4 / 127),
            "bias_scale": np.float32(4 / 127) * scale,
            "zero": zero,
            # Without these two ONNX Runtime does not recognise a quantized Gemm.
            "weight_zero": np.zeros(columns, np.int8),
            "bias_zero": np.zeros(columns, np.int32),
            "flat": np.array([-1, rows], np.int64),
            "columns": np.array([columns], np.int64),
        }

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def rounded(self, value: str) -> str:
        stored = self.op("QuantizeLinear", value, "scale", "zero")
        return self.op("DequantizeLinear", stored, "scale", "zero")

    def stored_weight(self, *zero: str) -> str:
        return self.op("DequantizeLinear", "stored", "weight_scale", *zero, axis=1)

    def in_two_dimensions(self, gemm: Callable[[str], str]) -> str:
        product = gemm(self.rounded(self.op("Reshape", "x", "flat")))
        sizes = self.op("Concat", self.op("Shape", "x", start=0, end=2), "columns", axis=0)
        return self.op("Reshape", product, sizes)


def fp32(layer: Layer) -> str:
    return layer.op("Add", layer.op("MatMul", "x", "weight"), "bias")


def matmul(layer: Layer) -> str:
    product = layer.op("MatMul", layer.rounded("x"), layer.stored_weight())
    return layer.op("Add", product, "bias")


def matmul_quantized_output(layer: Layer) -> str:
    product = layer.op("MatMul", layer.rounded("x"), layer.stored_weight())
    return layer.op("Add", layer.rounded(product), "bias")


def gemm(layer: Layer) -> str:
    def product(flat: str) -> str:
        return layer.op("Add", layer.op("Gemm", flat, layer.stored_weight("weight_zero")), "bias")

    return layer.in_two_dimensions(product)


def gemm_int32_bias(layer: Layer) -> str:
    def product(flat: str) -> str:
        bias = layer.op("DequantizeLinear", "bias32", "bias_scale", "bias_zero", axis=0)
        return layer.op("Gemm", flat, layer.stored_weight("weight_zero"), bias)

    return layer.in_two_dimensions(product)


FORMS: dict[str, Callable[[Layer], str]] = {
    "fp32": fp32,
    "MatMul": matmul,
    "MatMul, output quantized": matmul_quantized_output,
    "Gemm": gemm,
    "Gemm, int32 bias": gemm_int32_bias,
}
ZEROS = {"int8, zero point 0": np.int8(0), "uint8, zero point 128": np.uint8(128)}


def model(form: str, rows: int, columns: int, zero: Any) -> onnx.ModelProto:
    """One layer `(B, S, rows)` -> `(B, S, columns)`."""
    layer = Layer(rows, columns, zero)
    output = FORMS[form](layer)
    used = {name for node in layer.nodes for name in node.input}
    arrays = [
        numpy_helper.from_array(np.asarray(array), name)
        for name, array in layer.arrays.items()
        if name in used
    ]
    float32 = TensorProto.FLOAT
    graph = helper.make_graph(
        layer.nodes,
        form,
        [helper.make_tensor_value_info("x", float32, ["B", "S", rows])],
        [helper.make_tensor_value_info(output, float32, ["B", "S", columns])],
        arrays,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made


def measure(made: onnx.ModelProto, batch: tuple[int, int], threads: int) -> tuple[float, list[str]]:
    """Median milliseconds, and the operators of the optimized graph."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        session = onnxruntime.InferenceSession(
            made.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        graph = onnx.load(options.optimized_model_filepath).graph
        operators = [node.op_type for node in graph.node]
    rows = made.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    x = np.random.default_rng(1).normal(0, 1, (*batch, rows)).astype(np.float32)
    session.run(None, {"x": x})
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        session.run(None, {"x": x})
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times), operators


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--threads", type=int, default=1)
    threads = parser.parse_args().threads
    print(f"onnxruntime {onnxruntime.__version__}, {threads} threads; median milliseconds")
    for rows, columns in SHAPES:
        for batch in BATCHES:
            for form in FORMS:
                for zero, point in ZEROS.items() if form != "fp32" else [("", np.int8(0))]:
                    latency_ms, operators = measure(
                        model(form, rows, columns, point), batch, threads
                    )
                    integer = (
                        "" if form == "fp32" or INTEGER & set(operators) else "  FLOAT PRODUCT"
                    )
                    print(
                        f"{rows}x{columns} {batch[0]}x{batch[1]}  {latency_ms:8.3f}  {form}  {zero}"
                        f"  {' '.join(operators)}{integer}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
