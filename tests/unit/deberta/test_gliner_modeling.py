"""Our GLiNER against what the package `gliner` gave (tests/golden/make_gliner_golden.py)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.gliner_models import GOLDEN_CASES, random_feeds, random_gliner, weight

from exporter.deberta.checkpoint import load_model, open_checkpoint

GOLDEN = Path(__file__).parents[2] / "golden" / "gliner_scores.npz"
RELATIVE_TOLERANCE = 1e-5


@pytest.mark.parametrize("seed", GOLDEN_CASES)
def test_same_scores_as_gliner_gave(seed: int, tmp_path: Path) -> None:
    raw = random_gliner(seed)
    with np.load(GOLDEN) as golden:
        expected, shapes = golden[f"{seed} logits"], json.loads(str(golden[f"{seed} shapes"]))
    (tmp_path / "gliner_config.json").write_text(json.dumps(raw))
    state = {
        name: torch.from_numpy(weight(name, tuple(shape), seed)) for name, shape in shapes.items()
    }
    save_file(state, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    feeds = random_feeds(raw, seed)
    with torch.no_grad():
        (found,) = load_model(checkpoint)(*map(torch.from_numpy, feeds.values()))
    head = checkpoint.config.gliner
    assert head is not None
    assert found.shape == expected.shape
    valid = head.valid(feeds)
    if valid.any():
        error = np.abs(found.numpy() - expected)[valid].max()
        assert error / np.abs(expected[valid]).max() < RELATIVE_TOLERANCE


def test_the_golden_cases_cover_every_variant() -> None:
    raws = [random_gliner(seed) for seed in GOLDEN_CASES]
    for name in ("span_mode", "subtoken_pooling", "num_rnn_layers", "embed_ent_token"):
        assert len({raw[name] for raw in raws}) > 1, name
    projected = {raw["hidden_size"] == raw["encoder_config"]["hidden_size"] for raw in raws}
    assert projected == {True, False}
