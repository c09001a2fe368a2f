"""What a user reads from logits: choices, their probabilities, and how two models differ in them.

`N` rows of `K` logits; everything is float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from exporter.model.model_shape import ModelShape, label_kind
from exporter.model.task import Task

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]

TIE_ERRORS = 4.0
"""A near tie is a decision whose margin is at most so many rms errors of a deciding logit: 2.8
deviations of the difference of two, beyond which an honest error turns one in 400."""


class Decision(str, Enum):
    """What a user reads from a row of logits."""

    NONE = "none"
    ARGMAX = "argmax"
    SIGNS = "signs"


@dataclass(frozen=True, eq=False)
class Decided:
    """The decisions of both models, `M` of them: one a row, or one a logit for signs.

    Attributes:
        row: int64 `(M,)`, the row that each was read from.
        column: int64 `(M,)`, the logit of a sign; -1 where a row is one decision.
        reference: int64 `(M,)`, index of the largest logit, or 1 for a positive one.
        candidate: the same of the candidate.
        margin: `(M,)`, by how much the reference prefers its choice: to the candidate's, or to its
            second best where both choose alike. A sign's is sqrt(2) times its logit, of which one
            errs and not two; infinite where there is one choice.
        slip: `(M,)`, the candidate's margin less the reference's, between the same two choices.
        kl: `(M,)`, KL(reference || candidate) in nats.
        reference_score: `(M,)`, probability that the reference gives to its own choice.
        candidate_score: `(M,)`, the same of the candidate.
        common_score: `(M,)`, probability that the candidate gives to the reference's choice.
    """

    row: Ints
    column: Ints
    reference: Ints
    candidate: Ints
    margin: Doubles
    slip: Doubles
    kl: Doubles
    reference_score: Doubles
    candidate_score: Doubles
    common_score: Doubles

    @property
    def same(self) -> Bools:
        """Where both models decide alike."""
        equal: Bools = self.reference == self.candidate
        return equal


def decide(ref: Doubles, cand: Doubles, valid: Bools, decision: Decision) -> Decided | None:
    """The decisions of two models on the same rows; None where there are none to read.

    Args:
        ref: `(N, K)`, finite where valid.
        cand: the same of the candidate.
        valid: `(N, K)`; the rest is padding.
        decision: what is read from a row.
    """
    if decision is Decision.NONE or not len(ref):
        return None
    if decision is Decision.SIGNS:
        return _signs(ref, cand)
    whole = bool(valid.all())
    if not whole:
        ref, cand = np.where(valid, ref, -np.inf), np.where(valid, cand, -np.inf)
    index = np.arange(len(ref))
    first, other = ref.argmax(axis=1), cand.argmax(axis=1)
    best = ref[index, first]
    ref[index, first] = -np.inf
    second = np.where(first == other, ref.argmax(axis=1), other)
    margin = best - ref[index, second]
    ref[index, first] = best
    with np.errstate(invalid="ignore"):
        slip = np.where(np.isfinite(margin), cand[index, first] - cand[index, second] - margin, 0.0)
    log_ref, log_cand = _log_softmax(ref), _log_softmax(cand)
    return Decided(
        row=index,
        column=np.full(len(ref), -1),
        reference=first,
        candidate=other,
        margin=margin,
        slip=slip,
        kl=_softmax_kl(log_ref, log_cand, None if whole else valid),
        reference_score=np.exp(log_ref[index, first]),
        candidate_score=np.exp(log_cand[index, other]),
        common_score=np.exp(log_cand[index, first]),
    )


def _signs(ref: Doubles, cand: Doubles) -> Decided:
    row, column = (axis.ravel() for axis in np.indices(ref.shape))
    ref, cand = ref.ravel(), cand.ravel()
    on, other = ref > 0, cand > 0
    return Decided(
        row=row,
        column=column,
        reference=on.astype(np.int64),
        candidate=other.astype(np.int64),
        margin=np.sqrt(2.0) * np.abs(ref),
        slip=np.sqrt(2.0) * (cand - ref),
        kl=_binary_kl(ref, cand),
        reference_score=sigmoid(np.abs(ref)),
        candidate_score=sigmoid(np.abs(cand)),
        common_score=sigmoid(np.where(on, cand, -cand)),
    )


def sigmoid(logits: Doubles) -> Doubles:
    """Logistic function, without overflow."""
    result: Doubles = np.exp(-np.logaddexp(0.0, -logits))
    return result


def _softmax_kl(log_ref: Doubles, log_cand: Doubles, valid: Bools | None) -> Doubles:
    """KL(softmax(ref) || softmax(cand)) of each row, in nats; padding is -inf in both."""
    with np.errstate(invalid="ignore"):
        terms = np.exp(log_ref) * (log_ref - log_cand)
    if valid is not None:
        terms = np.where(valid, terms, 0.0)
    kl: Doubles = np.maximum(terms.sum(axis=1), 0.0)  # rounding can leave -1e-17
    return kl


def _log_softmax(logits: Doubles) -> Doubles:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Doubles = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _binary_kl(ref: Doubles, cand: Doubles) -> Doubles:
    """KL between the two-way distributions sigmoid(ref) and sigmoid(cand), element by element."""
    on = np.exp(-np.logaddexp(0.0, -ref))
    terms = on * (np.logaddexp(0.0, -cand) - np.logaddexp(0.0, -ref))
    terms += (1.0 - on) * (np.logaddexp(0.0, cand) - np.logaddexp(0.0, ref))
    kl: Doubles = np.maximum(terms, 0.0)
    return kl


def decision_of(shape: ModelShape) -> Decision:
    """What a user reads from the outputs of this model."""
    if shape.task is Task.BASE:
        return Decision.NONE
    if shape.task is Task.GLINER:
        return Decision.SIGNS
    if shape.task is Task.SEQUENCE_CLASSIFICATION:
        if shape.num_labels == 1:  # a score, whose order counts, whatever function shows it
            return Decision.NONE
        kinds = {"value": Decision.NONE, "sigmoid": Decision.SIGNS, "softmax": Decision.ARGMAX}
        return kinds[label_kind(shape)]
    return Decision.ARGMAX
