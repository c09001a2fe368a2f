"""How far one set of logits is from another, and from the labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Fidelity:
    """What a method keeps of the fp32 model on the test sentences.

    Attributes:
        accuracy: share of right decisions, 0 to 1.
        agreement: share of decisions equal to the fp32 model's, 0 to 1.
        kl: mean of KL(fp32 || method) over the sentences, in nats.
    """

    accuracy: float
    agreement: float
    kl: float


def compare(reference: Logits, logits: Logits, labels: NDArray[np.int64]) -> Fidelity:
    """Figures of `logits` `(N, classes)` beside the `reference`.

    Raises:
        ValueError: the shapes differ, or a logit is not finite.
    """
    if logits.shape != reference.shape:
        raise ValueError(f"logits of shape {logits.shape}; the reference has {reference.shape}")
    if not np.isfinite(logits).all():
        count = int((~np.isfinite(logits)).any(axis=-1).sum())
        raise ValueError(f"{count} of {len(logits)} sentences give NaN or infinity")
    expected, found = log_softmax(reference), log_softmax(logits)
    decisions = logits.argmax(axis=-1)
    return Fidelity(
        accuracy=float((decisions == labels).mean()),
        agreement=float((decisions == reference.argmax(axis=-1)).mean()),
        kl=float((np.exp(expected) * (expected - found)).sum(axis=-1).mean()),
    )


def log_softmax(logits: Logits) -> NDArray[np.float64]:
    """Logarithms of the probabilities over the last axis."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def relative_error(reference: Logits, logits: Logits) -> float:
    """Largest difference relative to the largest reference logit."""
    return float(np.abs(logits - reference).max() / np.abs(reference).max())
