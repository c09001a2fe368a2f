"""Exported graphs against `transformers`, in ONNX Runtime, far from the traced shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.random_models import random_config, random_inputs, random_model, valid_outputs

from exporter.deberta.checkpoint import open_checkpoint
from exporter.graph.export import export_onnx
from exporter.model.task import Task, input_names, output_names

SHAPES = ((1, 1), (2, 2), (3, 33), (1, 130), (2, 77))
# Two fp32 implementations of a few layers differ by their summation order only.
RELATIVE_TOLERANCE = 1e-5


def save_random(folder: Path, seed: int, **changes: Any) -> tuple[dict[str, Any], Task, Any]:
    fields, task = random_config(seed)
    fields.update(changes)
    model = random_model(fields, task, seed)
    model.save_pretrained(folder)
    return fields, task, model


@pytest.mark.parametrize("seed", range(0, 48, 2))
def test_graph_gives_the_outputs_of_transformers(seed: int, tmp_path: Path) -> None:
    fields, task, reference = save_random(tmp_path, seed)
    path = tmp_path / "model.onnx"
    summary = export_onnx(open_checkpoint(tmp_path), path)
    assert summary.attention_nodes == fields["num_hidden_layers"]

    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(str(path))
    assert tuple(i.name for i in session.get_inputs()) == input_names(fields["type_vocab_size"])
    assert tuple(o.name for o in session.get_outputs()) == output_names(task)
    for batch, length in SHAPES:
        if fields["position_biased_input"]:
            length = min(length, fields["max_position_embeddings"])
        inputs = random_inputs(fields, task, batch, length, seed)
        with torch.no_grad():
            expected = reference(**inputs, return_dict=True)
        actual = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
        mask = inputs["attention_mask"]
        ours = valid_outputs(task, tuple(map(torch.from_numpy, actual)), mask)
        wanted = valid_outputs(task, tuple(expected[n] for n in output_names(task)), mask)
        for one, other in zip(ours, wanted, strict=True):
            assert one.shape == other.shape
            assert float((one - other).abs().max() / other.abs().max()) < RELATIVE_TOLERANCE


def test_a_long_sequence_saturates_the_slots(tmp_path: Path) -> None:
    changes = {"position_biased_input": False, "relative_attention": True, "position_buckets": 16}
    changes |= {"max_relative_positions": 64, "pos_att_type": ["c2p", "p2c"]}
    fields, task, reference = save_random(tmp_path, 2, **changes)
    export_onnx(open_checkpoint(tmp_path), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    inputs = random_inputs(fields, task, 1, 700, 0)
    with torch.no_grad():
        expected = reference(**inputs).logits
    (actual,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    assert np.abs(actual - expected.numpy()).max() < RELATIVE_TOLERANCE * expected.abs().max()


def test_a_fully_masked_row_is_finite_and_leaves_others_alone(tmp_path: Path) -> None:
    fields, task, _ = save_random(tmp_path, 2)
    export_onnx(open_checkpoint(tmp_path), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    inputs = {n: t.numpy() for n, t in random_inputs(fields, task, 2, 9, 1).items()}
    (alone,) = session.run(None, {name: array[:1] for name, array in inputs.items()})
    inputs["attention_mask"][1] = 0
    (both,) = session.run(None, inputs)
    assert np.isfinite(both).all()
    np.testing.assert_allclose(both[:1], alone, rtol=1e-5, atol=1e-6)
