"""Our GLiNER against the package `gliner`, in an environment that has it (docs/verification.md)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.gliner_models import CASES, random_feeds, random_gliner
from support.gliner_oracle import oracle

from exporter.deberta.checkpoint import load_model, open_checkpoint
from exporter.model.task import Task

pytest.importorskip("gliner", reason="gliner is not installed")

RELATIVE_TOLERANCE = 1e-5


@pytest.mark.parametrize("seed", range(CASES))
def test_same_scores_as_gliner(seed: int, tmp_path: Path) -> None:
    raw = random_gliner(seed)
    reference = oracle(raw, seed)
    (tmp_path / "gliner_config.json").write_text(json.dumps(raw))
    if seed % 3:
        save_file(reference.state_dict(), tmp_path / "model.safetensors")
    else:
        torch.save(reference.state_dict(), tmp_path / "pytorch_model.bin")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.task is Task.GLINER
    model = load_model(checkpoint)
    feeds = random_feeds(raw, seed)
    given = {name: torch.from_numpy(array) for name, array in feeds.items()}
    with torch.no_grad():
        expected = reference(**given).logits
        (actual,) = model(*given.values())
    head = checkpoint.config.gliner
    assert head is not None
    assert actual.shape == expected.shape == head.output_shape(feeds)
    valid = torch.from_numpy(head.valid(feeds))
    if not valid.any():
        return
    scale = expected[valid].abs().max()
    assert (actual - expected)[valid].abs().max() / scale < RELATIVE_TOLERANCE
