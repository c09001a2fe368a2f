"""How far the activations' channels lie apart at the inputs of the linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import DebertaV2ForSequenceClassification

from benchmarks.fidelity.sentences import Ids, batches

LINEAR = {
    "qkv": "attention.self.value_proj",
    "attention output": "attention.output.dense",
    "feed-forward in": "intermediate.dense",
    "feed-forward out": "output.dense",
}


@torch.no_grad()
def channel_ratios(checkpoint: Path, rows: Sequence[Ids]) -> dict[str, float]:
    """For each kind of linear layer, the largest channel over the median one.

    A channel's size is its largest magnitude over the sentences; the figure is the layers' maximum.
    """
    model = DebertaV2ForSequenceClassification.from_pretrained(checkpoint, dtype=torch.float32)
    largest: dict[tuple[str, int], torch.Tensor] = {}

    def watch(key: tuple[str, int], module: torch.nn.Module) -> Any:
        def hook(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            found = inputs[0].abs().flatten(0, -2).amax(dim=0)
            largest[key] = torch.maximum(found, largest.get(key, found))

        return module.register_forward_pre_hook(hook)

    for number, layer in enumerate(model.deberta.encoder.layer):
        for kind, name in LINEAR.items():
            watch((kind, number), layer.get_submodule(name))
    # One sentence at a time: padding is no input that counts.
    for _, feeds in batches(rows, 1):
        model(**{name: torch.from_numpy(values) for name, values in feeds.items()})
    ratios = {key: float(sizes.max() / sizes.median()) for key, sizes in largest.items()}
    return {
        kind: max(ratio for (name, _), ratio in ratios.items() if name == kind) for kind in LINEAR
    }
