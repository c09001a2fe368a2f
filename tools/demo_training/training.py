"""The two training phases of the demo, masked-token pre-training and rating, and its accuracy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    DebertaV2ForSequenceClassification,
)

from tools.demo_training.batches import Encoder, index_batches, packed_texts, pad, rated_sequences
from tools.demo_training.settings import TrainingConfig
from tools.demo_training.split import NEGATIVE, POSITIVE, Example
from tools.demo_training.training_attention import use_training_attention
from tools.demo_training.vocabulary import CLS, SEP, UNK

Report = Callable[[str], None]


def model_config(config: TrainingConfig) -> DebertaV2Config:
    """A DeBERTa-v3 configuration in small."""
    # Through a dictionary, since the class reads some of these fields without declaring them.
    return DebertaV2Config.from_dict(
        {
            "vocab_size": config.pieces + 1,
            "hidden_size": config.hidden_size,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "intermediate_size": 4 * config.hidden_size,
            "hidden_act": "gelu",
            "hidden_dropout_prob": config.dropout,
            "attention_probs_dropout_prob": config.dropout,
            "max_position_embeddings": 512,
            "type_vocab_size": 0,
            # Twice the usual 0.02: at this width it keeps the scale of the activations.
            "initializer_range": 0.04,
            "layer_norm_eps": 1e-7,
            "relative_attention": True,
            "max_relative_positions": -1,
            "position_buckets": 256,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": "p2c|c2p",
            "position_biased_input": False,
            "pooler_dropout": config.dropout,
            "pooler_hidden_act": "gelu",
            "pooler_hidden_size": config.hidden_size,
            "id2label": {NEGATIVE: "NEGATIVE", POSITIVE: "POSITIVE"},
            "label2id": {"NEGATIVE": NEGATIVE, "POSITIVE": POSITIVE},
        }
    )


class _Optimiser:
    """AdamW with linear warm-up and decay, and clipped gradients."""

    def __init__(self, model: nn.Module, rate: float, weight_decay: float, steps: int) -> None:
        self._parameters = list(model.parameters())
        decayed = [p for p in self._parameters if p.ndim > 1]
        others = [p for p in self._parameters if p.ndim <= 1]
        groups: list[dict[str, Any]] = [
            {"params": decayed, "weight_decay": weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self._adamw = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))
        warm_up = max(1, steps // 16)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._adamw,
            # Epochs differ by a few batches, so the estimate of `steps` may be overrun.
            lambda step: min((step + 1) / warm_up, max(0.02, (steps - step) / (steps - warm_up))),
        )

    def step(self, loss: Tensor) -> None:
        """Backward and one update."""
        self._adamw.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._adamw.step()
        self._schedule.step()


def pretrain(
    config: TrainingConfig, encoder: Encoder, texts: Sequence[str], report: Report
) -> dict[str, Tensor]:
    """Masked-token training on the texts; returns the encoder's weights (`DebertaV2Model`)."""
    model = DebertaV2ForMaskedLM(model_config(config))
    use_training_attention(model)
    model.train()
    optimiser: _Optimiser | None = None
    for epoch in range(config.pretrain_epochs):
        sequences = packed_texts(encoder, texts)
        batches = list(index_batches(sequences, config.batch_tokens, encoder.random))
        if optimiser is None:
            steps = len(batches) * config.pretrain_epochs
            optimiser = _Optimiser(model, config.pretrain_rate, config.weight_decay, steps)
        total = 0.0
        for batch in batches:
            ids, mask = pad([sequences[i] for i in batch])
            corrupted, chosen = _corrupt(ids, encoder.mask_id)
            hidden = model.deberta(corrupted, attention_mask=mask).last_hidden_state[chosen]
            loss = F.cross_entropy(model.cls(hidden), ids[chosen])
            optimiser.step(loss)
            total += loss.item()
        report(f"pre-training {epoch + 1}/{config.pretrain_epochs}: {total / len(batches):.3f}")
    weights: dict[str, Tensor] = model.deberta.state_dict()
    return weights


def _corrupt(ids: Tensor, mask_id: int) -> tuple[Tensor, Tensor]:
    """BERT's corruption of 20 % of the tokens: (corrupted ids, which were chosen), (B, S) each."""
    chosen = (torch.rand(ids.shape) < 0.2) & (ids > UNK)
    fate = torch.rand(ids.shape)
    corrupted = torch.where(chosen & (fate < 0.8), mask_id, ids)
    noise = torch.randint(UNK + 1, mask_id, ids.shape)
    return torch.where(chosen & (fate >= 0.9), noise, corrupted), chosen


def fine_tune(
    config: TrainingConfig,
    encoder: Encoder,
    weights: dict[str, Tensor],
    train: Sequence[Example],
    validation: Sequence[Example],
    report: Report,
) -> DebertaV2ForSequenceClassification:
    """Train the classifier; returns the running average of its weights, in the stock model.

    The target is soft, P(positive) = sigmoid(rating), so that the two logits' difference learns
    the rating and a mild sentence weighs less than a strong one.
    """
    stock = DebertaV2ForSequenceClassification(model_config(config))
    stock.deberta.load_state_dict(weights)
    model = copy.deepcopy(stock)
    use_training_attention(model)
    model.train()
    average = copy.deepcopy(model)
    optimiser: _Optimiser | None = None
    for epoch in range(config.epochs):
        items = rated_sequences(encoder, train, config.joined_share, config.gaps)
        sequences = [ids for ids, _ in items]
        batches = list(index_batches(sequences, config.batch_tokens, encoder.random))
        if optimiser is None:
            steps = len(batches) * config.epochs
            optimiser = _Optimiser(model, config.rate, config.weight_decay, steps)
        total = 0.0
        for batch in batches:
            ids, mask = pad([sequences[i] for i in batch])
            positive = torch.sigmoid(torch.tensor([items[i][1] for i in batch]))
            target = torch.stack([1 - positive, positive], dim=1)
            loss = F.cross_entropy(model(input_ids=ids, attention_mask=mask).logits, target)
            optimiser.step(loss)
            _follow(average, model, config.average_decay)
            total += loss.item()
        report(
            f"rating {epoch + 1}/{config.epochs}: {total / len(batches):.4f}, "
            f"validation accuracy {accuracy(average, encoder, validation):.4f}"
        )
    stock.load_state_dict(average.state_dict())
    stock.train(False)
    return stock


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Exponential moving average of the parameters."""
    for mean, new in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(new, 1 - decay)


@torch.no_grad()
def accuracy(
    model: DebertaV2ForSequenceClassification, encoder: Encoder, examples: Sequence[Example]
) -> float:
    """Share of the examples whose larger logit is their label's."""
    model.train(False)
    right = 0
    # Sorted by length, so that batches hold little padding.
    order = sorted(examples, key=lambda example: len(example.text))
    for start in range(0, len(order), 64):
        part = order[start : start + 64]
        ids, mask = pad([[CLS, *encoder.plain(example.text), SEP] for example in part])
        predicted = model(input_ids=ids, attention_mask=mask).logits.argmax(dim=-1)
        right += int((predicted == torch.tensor([example.label for example in part])).sum())
    return right / len(examples)
