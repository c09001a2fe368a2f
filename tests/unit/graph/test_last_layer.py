"""The last layer for the first token alone: the same logits, and everything else as it was."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from support.site_graphs import export_random, feeds, run

from exporter.deberta.checkpoint import load_model, open_checkpoint
from exporter.errors import InputError
from exporter.graph.export import export_onnx
from exporter.graph.hidden_states import find_hidden_states
from exporter.model.task import Task
from exporter.parity.check import CompareOptions, compare_sides
from exporter.parity.sides import onnx_side
from plugins.disentangled_attention import contract

pytestmark = pytest.mark.usefixtures("shared_traces")

CASES: list[tuple[Task, dict[str, Any]]] = [
    (Task.SEQUENCE_CLASSIFICATION, {}),
    (Task.SEQUENCE_CLASSIFICATION, {"num_hidden_layers": 1, "conv_kernel_size": 3}),
    (Task.SEQUENCE_CLASSIFICATION, {"pos_att_type": ["p2c"]}),
    (Task.MULTIPLE_CHOICE, {"num_hidden_layers": 3, "conv_kernel_size": 3}),
]


@pytest.mark.parametrize(("task", "changes"), CASES)
def test_the_logits_are_those_of_the_full_graph(
    task: Task, changes: dict[str, Any], tmp_path: Path
) -> None:
    path, fields = export_random(tmp_path, task, last_layer="first", **changes)
    full = tmp_path / "full.onnx"
    export_onnx(open_checkpoint(tmp_path, task), full, last_layer="full")
    counts = [Counter(node.op_type for node in onnx.load(p).graph.node) for p in (path, full)]
    layers = fields["num_hidden_layers"]
    for found, first in zip(counts, (1, 0), strict=True):
        assert found[contract.FIRST_OP_TYPE] == first
        assert found[contract.OP_TYPE] == layers - first
    model = load_model(open_checkpoint(tmp_path, task), last_layer="first")
    for batch, length in ((1, 1), (3, 2), (5, 21), (2, 130)):
        inputs = feeds(fields, task, batch, length)
        expected = run(full, inputs)[0]
        tensors = (torch.from_numpy(array) for array in inputs.values())
        for found in (run(path, inputs)[0], model(*tensors)[0].numpy()):
            assert found.shape == expected.shape
            # Each of the two is up to 2.1e-6 from the model in double precision.
            assert np.abs(found - expected).max() <= 5e-6 * np.abs(expected).max()


def test_a_head_that_reads_every_token_refuses(tmp_path: Path) -> None:
    export_random(tmp_path, Task.TOKEN_CLASSIFICATION)
    checkpoint = open_checkpoint(tmp_path, Task.TOKEN_CLASSIFICATION)
    with pytest.raises(InputError, match="token-classification reads every token"):
        export_onnx(checkpoint, tmp_path / "first.onnx", last_layer="first")
    assert not (tmp_path / "first.onnx").exists()


def test_hidden_states_are_compared_where_both_have_them(tmp_path: Path) -> None:
    path, _ = export_random(tmp_path, last_layer="first")
    full, wrong = tmp_path / "full.onnx", tmp_path / "wrong.onnx"
    export_onnx(open_checkpoint(tmp_path), full, last_layer="full")
    model = onnx.load(path)
    (bias,) = (t for t in model.graph.initializer if t.name.endswith("1.output.LayerNorm.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))
    onnx.save(model, wrong)
    assert find_hidden_states(model).names[-1] == "layer 1"
    options = CompareOptions()
    for reference, candidate in ((full, path), (path, full), (path, path)):
        result = compare_sides(onnx_side(reference), onnx_side(candidate), options)
        assert result, result.failures
        assert all("layer 1" in case.layers for case in result.cases)
    for reference, candidate in ((full, wrong), (wrong, full)):
        result = compare_sides(onnx_side(reference), onnx_side(candidate), options)
        assert "first layer outside its limits: layer 1" in "\n".join(result.failures)
