"""Writes what `gliner` gives, for tests that lack it: `gliner_scores.npz` of random models, and
`gliner_entities.json`, the entities of the tiny trained one.

In an environment with gliner (docs/verification.md):
    PYTHONPATH=.:tests python tests/golden/make_gliner_golden.py
"""

from __future__ import annotations

import json
from pathlib import Path

import gliner
import numpy as np
import torch
from support.gliner_models import (
    GOLDEN_CASES,
    LABELS,
    TEXTS,
    THRESHOLD,
    random_feeds,
    random_gliner,
)
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
    folder, found = Path(__file__).parent, {}
    tiny = gliner.GLiNER.from_pretrained(folder / "gliner_model")
    for flat, several in ((True, False), (False, False), (True, True), (False, True)):
        options = {"flat_ner": flat, "multi_label": several, "threshold": THRESHOLD}
        found[f"flat={flat} several={several}"] = tiny.inference(TEXTS, list(LABELS), **options)
    (folder / "gliner_entities.json").write_text(json.dumps(found, indent=1) + "\n")
    np.savez_compressed(Path(__file__).with_name("gliner_scores.npz"), **arrays)
