"""Writes `gliner_scores.npz`: what `gliner` gives for random models, for tests that lack it.

In an environment with gliner (docs/verification.md):
    PYTHONPATH=.:tests python tests/golden/make_gliner_golden.py
"""

from __future__ import annotations

import json
from pathlib import Path

import gliner
import numpy as np
import torch
from support.gliner_models import GOLDEN_CASES, random_feeds, random_gliner
from support.gliner_oracle import oracle

if __name__ == "__main__":
    arrays = {"gliner": np.array(gliner.__version__)}
    for seed in GOLDEN_CASES:
        raw = random_gliner(seed)
        model = oracle(raw, seed)
        feeds = {name: torch.from_numpy(a) for name, a in random_feeds(raw, seed).items()}
        with torch.no_grad():
            arrays[f"{seed} logits"] = model(**feeds).logits.numpy()
        shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        arrays[f"{seed} shapes"] = np.array(json.dumps(shapes))
    np.savez_compressed(Path(__file__).with_name("gliner_scores.npz"), **arrays)
