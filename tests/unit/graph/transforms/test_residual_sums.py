"""Sums before LayerNorms: which nodes are rewritten, and what ONNX Runtime makes of the graph."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.site_graphs import export_random, feeds, run

from exporter.graph.transforms.residual_sums import write_residual_sums
from exporter.model.task import Task

pytestmark = pytest.mark.usefixtures("shared_traces")


def graph(second: str, readers: tuple[str, ...]) -> ir.Model:
    """`x + second`, read by the operators named."""
    nodes = [helper.make_node("Add", ["x", second], ["sum"])]
    for index, kind in enumerate(readers):
        inputs = ["sum", "ones"] if kind == "LayerNormalization" else ["sum"]
        nodes.append(helper.make_node(kind, inputs, [f"y{index}"]))
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 4]) for name in ("x", "z")]
    outputs = [
        helper.make_tensor_value_info(f"y{index}", TensorProto.FLOAT, [2, 4])
        for index in range(len(readers))
    ]
    ones = numpy_helper.from_array(np.ones(4, np.float32), "ones")
    made = helper.make_graph(nodes, "one", infos, outputs, [ones])
    return ir.from_proto(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)]))


@pytest.mark.parametrize(
    ("second", "readers", "changed"),
    [
        ("z", ("LayerNormalization",), 1),
        ("ones", ("LayerNormalization",), 0),
        ("z", ("LayerNormalization", "Relu"), 0),
        ("z", ("Relu",), 0),
    ],
)
def test_only_sums_of_activations_that_a_layer_norm_alone_reads(
    second: str, readers: tuple[str, ...], changed: int
) -> None:
    model = graph(second, readers)
    assert write_residual_sums(model) == changed
    kinds = Counter(node.op_type for node in model.graph)
    assert (kinds["Sum"], kinds["Add"]) == (changed, 1 - changed)


def test_onnx_runtime_keeps_the_two_kernels_and_shares_what_layers_have_in_common(
    tmp_path: Path,
) -> None:
    path, fields = export_random(tmp_path, last_layer="full", num_hidden_layers=3)
    optimized = tmp_path / "optimized.onnx"
    run(path, feeds(fields, Task.SEQUENCE_CLASSIFICATION), optimized)
    kinds = Counter(node.op_type for node in onnx.load(str(optimized)).graph.node)
    assert kinds["Sum"] == 6
    assert kinds["LayerNormalization"] == 7
    assert kinds["SkipLayerNormalization"] == 0
    # Once for all layers: the index of each pair and the mask's bias.
    assert (kinds["Expand"], kinds["Range"], kinds["Where"]) == (1, 1, 1)
    # The start and end of the live slots, each pair's slot, the embedding, the pooled token.
    assert kinds["Gather"] == 5
    assert kinds["BiasGelu"] == 3
