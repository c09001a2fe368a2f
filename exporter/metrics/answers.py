"""What a user of a task reads beyond single decisions: an order, entities, an answer, fills.

Both models' are kept of each batch as arrays that batches add to; the figures follow when the
margin of a near tie is known, which follows from all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from exporter.metrics.decisions import Bools, Decision, Doubles, Ints, decision_of
from exporter.model.answer_spans import answer_spans, softmax
from exporter.model.entities import entity_runs
from exporter.model.model_shape import ModelShape
from exporter.model.task import Task

FILLS = 5
LEAST_RANKED = 10
"""Rows of an order that is worth a correlation."""
_Self = TypeVar("_Self", bound="Answers")
_Outputs = Mapping[str, NDArray[np.floating]]
Scores = Mapping[str, "float | None"]


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers of both models in one batch or many; arrays have an entry for each."""

    subject: ClassVar[str] = ""

    def __add__(self: _Self, other: _Self) -> _Self:
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        joined: dict[str, Any] = {
            name: np.concatenate(pair)
            for name, pair in pairs.items()
            if isinstance(pair[0], np.ndarray)
        }
        return replace(self, **joined)

    def scores(self, tie: float) -> Scores:
        """The figures by metric; None where there is nothing to measure.

        Args:
            tie: margin of a near tie; one counts as the reference's.
        """
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Ranking(Answers):
    """Values of a model with one label `(N,)`, and the first text of each pair, or ""."""

    subject: ClassVar[str] = "ranking"
    query: NDArray[np.object_]
    reference: Doubles
    candidate: Doubles

    def scores(self, tie: float) -> Scores:
        """`spearman`, and the share of pairs of one query's candidates that change their order."""
        margins, turned = self._pairs()
        beyond = turned & (margins > tie)
        return {
            "spearman": spearman(self.reference, self.candidate),
            "order_flips": float(beyond.mean()) if len(beyond) else None,
        }

    def _pairs(self) -> tuple[Doubles, Bools]:
        """Of the pairs that the reference tells apart, its margin, and whether they turned."""
        margins, turned = [np.zeros(0)], [np.zeros(0, np.bool_)]
        for query in sorted(set(self.query) - {""}):
            mine = self.query == query
            ref, cand = (
                np.subtract.outer(v[mine], v[mine]) for v in (self.reference, self.candidate)
            )
            margins.append(ref[ref > 0])
            turned.append(cand[ref > 0] <= 0)
        return np.concatenate(margins), np.concatenate(turned)


def spearman(first: Doubles, second: Doubles) -> float | None:
    """Spearman's rank correlation, equal values sharing their mean rank; 0 of a constant second.

    None of a constant first, or with fewer than `LEAST_RANKED` values.
    """
    one, two = (ranks - ranks.mean() for ranks in map(_ranks, (first, second)))
    if len(one) < LEAST_RANKED or not one.any():
        return None
    return float(one @ two / np.sqrt((one @ one) * (two @ two))) if two.any() else 0.0


def _ranks(values: Doubles) -> Doubles:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Doubles = (np.cumsum(count) - (count - 1) / 2.0)[place]
    return ranks


@dataclass(frozen=True, eq=False)
class Entities(Answers):
    """Labels of tokens `(N,)`.

    Attributes:
        names: of the labels.
        starts: bool, the first token of a text.
        reference: int64.
        candidate: int64.
        margin: by how much the reference prefers its label to the candidate's.
    """

    subject: ClassVar[str] = "entities"
    names: tuple[str, ...]
    starts: Bools
    reference: Ints
    candidate: Ints
    margin: Doubles

    def scores(self, tie: float) -> Scores:
        """Precision and recall of the candidate's entities against the reference's."""
        theirs = np.where(self.margin <= tie, self.reference, self.candidate)
        ref, cand = (
            set(entity_runs(self.names, labels, self.starts)) for labels in (self.reference, theirs)
        )
        return {
            "entity_precision": len(ref & cand) / len(cand) if cand else None,
            "entity_recall": len(ref & cand) / len(ref) if ref else None,
        }


@dataclass(frozen=True, eq=False)
class Spans(Answers):
    """Answers to questions `(N,)`: the preference for the reference's, and the F1 of both."""

    subject: ClassVar[str] = "answers"
    margin: Doubles
    f1: Doubles

    def scores(self, tie: float) -> Scores:
        """Share of equal answers, and mean F1."""
        kept = self.margin <= tie
        return {
            "exact_match": float(kept.mean()),
            "answer_f1": float(np.where(kept, 1.0, self.f1).mean()),
        }


@dataclass(frozen=True, eq=False)
class Fills(Answers):
    """The candidate's `FILLS` tokens for each mask `(N, FILLS)`: what they lack to be among the
    reference's, 0 where they are."""

    subject: ClassVar[str] = "fills"
    margin: Doubles

    def scores(self, tie: float) -> Scores:
        """Share of the candidate's fills that are among the reference's."""
        return {"top5_overlap": float((self.margin <= tie).mean())}


def answers_of(
    shape: ModelShape, reference: _Outputs, candidate: _Outputs, asked: Bools, firsts: Sequence[str]
) -> Answers | None:
    """The answers of one batch; None where the task has none beside its decisions.

    Args:
        shape: the model.
        reference: its outputs.
        candidate: the same of the candidate.
        asked: `(B, S)`, the tokens that an answer is read from.
        firsts: first text of each example that is a pair, else "".
    """
    if not asked.any():
        return None
    values = shape.num_labels == 1 and decision_of(shape) is Decision.NONE
    ranked = values and shape.task is Task.SEQUENCE_CLASSIFICATION
    make = _ranking if ranked else _MAKERS.get(shape.task)
    if make is None:
        return None
    # What is not finite fails on its own; here it must only not stop the rest.
    given = ((reference[name], candidate[name]) for name in shape.outputs)
    pairs = [(np.nan_to_num(one), np.nan_to_num(two)) for one, two in given]
    return make(shape, pairs, asked, firsts)


_Pairs = Sequence[tuple[NDArray[np.floating], NDArray[np.floating]]]


def _ranking(shape: ModelShape, pairs: _Pairs, asked: Bools, firsts: Sequence[str]) -> Answers:
    kept: Bools = np.any(asked, axis=1)
    query = np.array(firsts or [""] * len(kept), np.object_)
    ref, cand = (values[kept, 0].astype(np.float64) for values in pairs[0])
    return Ranking(query[kept], ref, cand)


def _entities(shape: ModelShape, pairs: _Pairs, asked: Bools, firsts: Sequence[str]) -> Answers:
    ref, cand = (values[asked].astype(np.float64) for values in pairs[0])
    example = np.nonzero(asked)[0]
    index, first, other = np.arange(len(ref)), ref.argmax(axis=1), cand.argmax(axis=1)
    names = tuple(shape.id2label[label] for label in range(shape.num_labels))
    starts = np.diff(example, prepend=-1) != 0
    return Entities(names, starts, first, other, ref[index, first] - ref[index, other])


def _spans(shape: ModelShape, pairs: _Pairs, asked: Bools, firsts: Sequence[str]) -> Answers:
    margins, scores = [], []
    for index in np.flatnonzero(asked.any(axis=1)):
        (start, start_cand), (final, final_cand) = (
            [side[index][asked[index]].astype(np.float64) for side in sides] for sides in pairs
        )
        one, last, _ = next(answer_spans(softmax(start), softmax(final), 1))
        two, end, _ = next(answer_spans(softmax(start_cand), softmax(final_cand), 1))
        # Four logits err, not the two of a decision.
        margins.append((start[one] + final[last] - start[two] - final[end]) / np.sqrt(2.0))
        common = max(0, min(last, end) - max(one, two) + 1)
        scores.append(2.0 * common / (last - one + end - two + 2))
    return Spans(np.array(margins), np.array(scores))


def _fills(shape: ModelShape, pairs: _Pairs, asked: Bools, firsts: Sequence[str]) -> Answers:
    found = []
    for index in np.flatnonzero(asked.any(axis=1)):
        ref, cand = (values[index][asked[index]] for values in pairs[0])
        count = min(FILLS, ref.shape[1])
        fifth = np.partition(ref, -count, axis=1)[:, -count, None]
        best = np.argpartition(cand, -count, axis=1)[:, -count:]
        found.append(np.maximum(fifth - np.take_along_axis(ref, best, axis=1), 0.0))
    return Fills(np.concatenate(found).astype(np.float64))


_MAKERS: Mapping[Task, Callable[[ModelShape, _Pairs, Bools, Sequence[str]], Answers]] = {
    Task.TOKEN_CLASSIFICATION: _entities,
    Task.QUESTION_ANSWERING: _spans,
    Task.MASKED_LM: _fills,
}
