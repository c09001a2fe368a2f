"""The builder's own words become a user's message: node, rule, what to do."""

from __future__ import annotations

import signal

import pytest

from exporter.engine.backend import TENSORRT_RTX
from exporter.engine.build_errors import died, translate
from exporter.errors import InputError, MissingDependencyError

# As TensorRT-RTX 1.7.1 writes them.
ZERO_POINT = (
    "[E] In node 4 with name: quant and operator: QuantizeLinear (buildZeroPointTensor): "
    "INVALID_NODE: Assertion failed: shiftIsAllZeros(zeroPoint): Non-zero zero point is not "
    "supported. Please set kENABLE_UINT8_AND_ASYMMETRIC_QUANTIZATION_DLA to enable it."
)
TYPES = (
    "[E] In node 1 with name: add and operator: Add (parseNode): INVALID_NODE: Invalid Node - add\n"
    "    ITensor::getDimensions: Error Code 4: API Usage Error (add: ElementWiseOperation SUM must "
    "have same input types. But they are of types Float and Half. In validateTypes at "
    "/_src/optimizer/common/nodes/elementWiseNode.cpp:40)\n"
    "    [checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at "
    "/_src/common/dispatch/checkMacros.cpp:250 (cudaError 35: CUDA driver version is insufficient "
    "for CUDA runtime version))"
)
NO_OPERATOR = (
    "[E] In node 0 with name: att and operator: {} (checkFallbackPluginImporter): INVALID_NODE: "
    'creator && "Plugin not found, are the plugin name, version, and namespace correct?"'
)
TURING = (
    "[E] IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([pass.cpp:337: "
    "check_turing_op_compatibility] Cannot compile operation 'node_MatMul_6' for Turing (SM75): "
    "FP32 GEMM is not supported. In compileGraph at /_src/optimizer/myelin/codeGenerator.cpp:2012)"
)
WORKSPACE = (
    "[E] IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([tactic.cpp:1676: "
    "enumerate_tactics] Tactic Selection: no tactics to implement the operation within workspace "
    "limit. Consider increase the allowed workspace size. In compileGraph at /_src/x.cpp:2012)"
)
DATATYPE = (
    "[E] IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([pass.cpp:1500: run_passes] "
    "Cannot compile for target(s) sm80, because the model contains HW-specific datatypes: "
    "fp8_e4m3. In compileGraph at /_src/optimizer/myelin/codeGenerator.cpp:2012)"
)
JIT = (
    "[E] IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([myelin_graph.h:1295: "
    "attachExceptionMsgToGraph] MyelinCheckException: graph_jit.cpp:278: CHECK(status == "
    "CUDA_SUCCESS) failed.  In compileGraph at /_src/optimizer/myelin/codeGenerator.cpp:2012)"
)


@pytest.mark.parametrize(
    ("line", "kind", "parts"),
    [
        (
            ZERO_POINT,
            InputError,
            ["'quant' (QuantizeLinear)", "buildZeroPointTensor: Non-zero zero point is not"],
        ),
        (TYPES, InputError, ["'add' (Add)", "must have same input types", "Float and Half;"]),
        (NO_OPERATOR.format("Bogus"), InputError, ["'att' (Bogus)", "no such operator"]),
        (
            NO_OPERATOR.format("DisentangledAttention"),
            MissingDependencyError,
            ["has no function for it"],
        ),
        (TURING, InputError, ["'node_MatMul_6'", "Turing (SM75): FP32 GEMM is not supported;"]),
        (DATATYPE, InputError, ["sm80 has no kernels for fp8_e4m3; choose another --precision"]),
        (WORKSPACE, InputError, ["--workspace"]),
        (JIT, MissingDependencyError, ["needs a GPU"]),
        ("[E] Error Code 2: OutOfMemory", MissingDependencyError, ["not enough memory"]),
        (
            "Compute capability 9.0 (SM90) not supported by this TensorRT-RTX version.",
            InputError,
            ["--compute-capability 90"],
        ),
        ("[E] something new", InputError, ["cannot build model.onnx: something new"]),
    ],
)
def test_messages(line: str, kind: type[Exception], parts: list[str]) -> None:
    error = translate(TENSORRT_RTX, "model.onnx", [line], "Could not parse ONNX correctly")
    assert type(error) is kind
    text = str(error)
    assert all(part in text for part in parts), text
    assert "/_src/" not in text and "kENABLE" not in text and "\n" not in text


def test_a_build_that_the_system_stopped() -> None:
    assert isinstance(died(TENSORRT_RTX, "g", -signal.SIGKILL, ""), MissingDependencyError)


def test_a_build_that_crashed() -> None:
    error = died(TENSORRT_RTX, "g.onnx", -signal.SIGSEGV, "first\nlast words\n\n")
    assert isinstance(error, InputError)
    assert "SIGSEGV (last words)" in str(error)
    assert "exit code 7" in str(died(TENSORRT_RTX, "g", 7, ""))
