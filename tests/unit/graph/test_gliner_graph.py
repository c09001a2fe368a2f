"""The graph of GLiNER against the reference: every shape of its inputs, ragged LSTMs, poolings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.gliner_models import random_feeds, random_gliner, write_gliner

from exporter.deberta.checkpoint import load_model, open_checkpoint
from exporter.graph.export import export_onnx

SEEDS = (2, 5, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (0, 3, 4, 7)))
"""Spans and words, every pooling, one layer of the LSTM, two and none."""
RELATIVE_TOLERANCE = 1e-5


@pytest.mark.parametrize("seed", SEEDS)
def test_the_graph_is_the_reference(seed: int, tmp_path: Path) -> None:
    raw = random_gliner(seed)
    checkpoint = open_checkpoint(write_gliner(tmp_path, raw, seed))
    model = load_model(checkpoint)
    path = tmp_path / "model.onnx"
    export_onnx(checkpoint, path)
    session = onnxruntime.InferenceSession(path)
    head = checkpoint.config.gliner
    assert head is not None
    assert tuple(item.name for item in session.get_inputs()) == head.inputs
    assert [item.name for item in session.get_outputs()] == ["logits"]
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert kinds.count("DisentangledAttention") == checkpoint.config.num_hidden_layers
    assert kinds.count("LSTM") == head.num_rnn_layers
    for other in (seed, seed + 40, seed + 41, seed + 44):  # batch, length, words and labels vary
        feeds = random_feeds(raw, other)
        with torch.no_grad():
            (expected,) = model(*map(torch.from_numpy, feeds.values()))
        (found,) = session.run(None, dict(feeds))
        assert found.shape == expected.shape == head.output_shape(feeds)
        valid = head.valid(feeds)
        if valid.any():
            error = np.abs(found - expected.numpy())[valid].max()
            assert error / np.abs(expected.numpy()[valid]).max() < RELATIVE_TOLERANCE
