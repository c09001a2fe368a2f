"""Kernels are read from the builder's log and from an inspector alike."""

from __future__ import annotations

import json

import pytest

from calibration.json_values import from_json_values, to_json_values
from exporter.engine.layers import (
    Kernel,
    KernelSummary,
    Tensor,
    from_inspector,
    from_log,
)

LOG = """[X] Layers:
    Name: __mye1_myl0_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], \
TacticName: , StreamId: 0, Metadata:\x20
    Name: A.MatMul.37+A.MatMul.9_myl0_4, LayerType: gemm, Inputs: [ { Name: x_myl0, \
Dimensions: [2,-1,8], Strides: [-1,8,1], StrideOrder: [2,1,0], Datatype: Half, Format: (Linear) \
Row major linear format }, { Name: y, Dimensions: [8], Strides: [1], StrideOrder: [0], \
Datatype: Float, Format: (Linear) Row major linear format }], Constants: [ { Name: w, \
Dimensions: [3,5], Strides: [5,1], StrideOrder: [1,0], Datatype: BFloat16, Format: (Linear) Row \
major linear format }], Outputs: [ { Name: z, Dimensions: [], Strides: [], StrideOrder: [], \
Datatype: Float, Format: (Linear) Row major linear format }], TacticName: t_0x1, StreamId: 0, \
Metadata: [ONNX Layer: D.MatMul.37 | node_1 (DisentangledAttention)][ONNX Layer: node_2]

    I/O Tensors:
     Name: input_ids, IOMode: Input, DataType: Int64, Dimensions: [-1,-1], Location: Device
"""
GEMM = Kernel(
    "A.MatMul.37+A.MatMul.9_myl0_4",
    "gemm",
    (Tensor("x_myl0", "Half", (2, -1, 8)), Tensor("y", "Float", (8,))),
    (Tensor("w", "BFloat16", (3, 5)),),
    (Tensor("z", "Float", ()),),
    ("D.MatMul.37 | node_1 (DisentangledAttention)", "node_2"),
)


def kernel(kind: str, *nodes: str, shape: tuple[int, ...] = (4,), name: str = "k_myl0_1") -> Kernel:
    return Kernel(
        name, kind, (Tensor("a", "Half", shape),), (), (Tensor("b", "Half", (2,)),), nodes
    )


def test_the_log_lists_kernels() -> None:
    first, second = from_log(["[X] something", LOG])
    assert (first.name, first.kind, first.nodes) == ("__mye1_myl0_0", "shape_call", ())
    assert second == GEMM
    assert from_log(["[X] Layers skipped"]) == ()


def test_an_inspector_lists_kernels() -> None:
    text = json.dumps(
        {
            "Layers": [
                {
                    "Name": "conv",
                    "LayerType": "PluginV3",
                    "Inputs": [
                        {"Name": "x", "Dimensions": [2, 3], "Format/Datatype": "Row major FP16"}
                    ],
                    "Outputs": [{"Name": "y", "Dimensions": [2], "Datatype": "Half"}],
                    "Metadata": "[ONNX Layer: node_7]",
                },
                "a name alone",
            ]
        }
    )
    plugin, bare = from_inspector(text)
    assert plugin.inputs == (Tensor("x", "FP16", (2, 3)),)
    assert plugin.outputs == (Tensor("y", "Half", (2,)),)
    assert plugin.nodes == ("node_7",)
    assert bare.name == "a name alone"
    assert KernelSummary.of([plugin, bare]).attention == "plugin"


def test_kernels_survive_json() -> None:
    written = json.dumps(to_json_values([GEMM]))
    assert from_json_values(json.loads(written), tuple[Kernel, ...]) == (GEMM,)


def test_traffic_counts_every_operand_once() -> None:
    assert KernelSummary.of([kernel("gemm")]).traffic_bytes == 4 * 2 + 2 * 2
    assert KernelSummary.of([GEMM]).traffic_bytes is None
    assert KernelSummary.of([kernel("gemm"), kernel("kgen", shape=(3, 3))]).traffic_bytes == 34
    assert KernelSummary.of([kernel("gemm"), GEMM]).traffic_bytes is None


@pytest.mark.parametrize(
    ("kernels", "attention", "ours"),
    [
        ([GEMM, kernel("kgen", "n")], "expanded", 1),
        (
            [kernel("kgen", "n (DisentangledAttention)", name="_gemm_mha_v2_myl0_27"), GEMM],
            "fused",
            2,
        ),
        ([kernel("PLUGIN_V3", "node__symbolic")], "plugin", 0),
        ([kernel("gemm", "node")], "unknown", 0),
        ([], "unknown", 0),
    ],
)
def test_how_the_attention_is_computed(kernels: list[Kernel], attention: str, ours: int) -> None:
    summary = KernelSummary.of(kernels)
    assert (summary.attention, summary.attention_kernels) == (attention, ours)
    assert summary.kernels == sum(summary.kinds.values()) == len(kernels)


def test_steps_that_are_no_kernels_do_not_count() -> None:
    waits = [Kernel(kind, kind, (), (), (), ()) for kind in ("wait", "signal", "shape_call")]
    assert KernelSummary.of([*waits, GEMM]) == KernelSummary.of([GEMM])
