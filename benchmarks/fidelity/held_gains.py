"""A checkpoint with outlier channels at the inputs of its linear layers, as real DeBERTa has.

A few gains of every LayerNorm are multiplied by 16 and held there while the model is fine-tuned on
the train part, so that it learns to live with them. Their gradients are masked and LayerNorms have
no weight decay: the values in the saved checkpoint are 16 times the original ones exactly.

    python -m benchmarks.fidelity.held_gains --model exporter/demo/checkpoint \\
        --sentences sentences.tsv --output DIR
"""

from __future__ import annotations

import argparse
import random
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from torch import nn
from torch.nn import functional as F
from transformers import DebertaV2ForSequenceClassification

from tools.demo_training.batches import Encoder, index_batches, pad, rated_sequences
from tools.demo_training.split import Split, load_split
from tools.demo_training.training import accuracy
from tools.demo_training.training_attention import use_training_attention

FACTOR = 16.0
CHANNELS = 3
SEED = 16
STEPS = 160
WARM_UP = 10
RATE = 5e-4
WEIGHT_DECAY = 0.01
BATCH_TOKENS = 2048


def hold_gains(model: nn.Module, generator: torch.Generator) -> int:
    """Multiply `CHANNELS` gains of every LayerNorm by `FACTOR` and stop their training.

    Returns the number of gains held.
    """
    held = 0
    for module in model.modules():
        if not isinstance(module, nn.LayerNorm):
            continue
        channels = torch.randperm(len(module.weight), generator=generator)[:CHANNELS]
        free = torch.ones_like(module.weight)
        free[channels] = 0.0
        with torch.no_grad():
            module.weight[channels] *= FACTOR
        # With a zero gradient from the first step on, Adam's update is zero too.
        module.weight.register_hook(partial(torch.mul, free))  # type: ignore[no-untyped-call]
        held += CHANNELS
    return held


def fine_tune(source: Path, split: Split, target: Path) -> None:
    """Write the fine-tuned variant of the checkpoint `source`; prints its validation accuracy."""
    torch.manual_seed(SEED)
    stock = DebertaV2ForSequenceClassification.from_pretrained(source)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(source / "spm.model"))
    encoder = Encoder(processor, SEED)
    model = DebertaV2ForSequenceClassification.from_pretrained(source)
    use_training_attention(model)
    generator = torch.Generator().manual_seed(SEED)
    print(f"{hold_gains(_layers(model), generator)} gains held at {FACTOR:g} times their value")
    optimiser = _optimiser(model)
    rated = (*split.train, *split.neutral)
    items = rated_sequences(encoder, rated, joined_share=0.05, gaps=0.05)
    sequences = [ids for ids, _ in items]
    groups = index_batches(sequences, BATCH_TOKENS, random.Random(SEED))
    model.train()
    for step, group in enumerate(islice(groups, STEPS)):
        for options in optimiser.param_groups:
            options["lr"] = RATE * min(1.0, (step + 1) / WARM_UP, (STEPS - step) / (STEPS / 2))
        ids, mask = pad([sequences[i] for i in group])
        positive = torch.sigmoid(torch.tensor([items[i][1] for i in group]))
        wanted = torch.stack([1 - positive, positive], dim=1)
        loss = F.cross_entropy(model(input_ids=ids, attention_mask=mask).logits, wanted)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 20 == 0:
            print(f"    step {step}/{STEPS}: loss {loss.item():.4f}", flush=True)
    print(f"validation accuracy {accuracy(model, encoder, split.validation):.4f}", flush=True)
    stock.load_state_dict(model.state_dict())
    stock.save_pretrained(target)


def _layers(model: DebertaV2ForSequenceClassification) -> nn.Module:
    """The modules whose LayerNorms feed linear layers.

    The one over the relative embeddings is left out: at inference its results are constants.
    """
    return nn.ModuleList([model.deberta.embeddings, *model.deberta.encoder.layer])


def _optimiser(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW; weight decay on matrices only."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in model.parameters() if p.ndim <= 1]},
    ]
    return torch.optim.AdamW(
        groups,
        lr=RATE,
        betas=(0.9, 0.98),
        weight_decay=0.0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--sentences", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    fine_tune(arguments.model, load_split(arguments.sentences), arguments.output)


if __name__ == "__main__":
    main()
