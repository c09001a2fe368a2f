"""The sizes and rates that the demo is trained with. Light: no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingConfig:
    """The defaults are those of the committed checkpoint."""

    seed: int = 7
    pieces: int = 4095  # with [MASK], 4096 tokens
    hidden_size: int = 128
    layers: int = 4
    heads: int = 2  # head size 64, as in every published DeBERTa-v3
    dropout: float = 0.1
    pretrain_epochs: int = 3
    pretrain_rate: float = 1.5e-3
    epochs: int = 8
    rate: float = 1e-3
    weight_decay: float = 0.05
    batch_tokens: int = 2048
    joined_share: float = 0.08  # joined inputs per example and epoch
    gaps: float = 0.1  # share of the tokens that are masked while rating is trained
    average_decay: float = 0.995  # of the running average of the weights, per step
