"""The entities of a GLiNER model, the candidate's against the reference's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from exporter.metrics.answers import Answers, Scores
from exporter.metrics.decisions import Bools, Doubles, sigmoid
from exporter.model.gliner_entities import (
    THRESHOLD,
    WordSpan,
    chosen,
    excludes,
    logit_of,
    span_logits,
)
from exporter.model.gliner_head import GlinerHead, label_counts


@dataclass(frozen=True, eq=False)
class FoundSpans(Answers):
    """Entities that either model finds at the threshold, no two of one model overlapping, `(N,)`.

    Attributes:
        reference: whether the reference finds it.
        candidate: whether the candidate does.
        margin: by how much the reference prefers what it does to what the candidate does: to find
            it or not, or to find it and not one that it overlaps; as the margin of a decision.
        shift: by how much the probability moves.
    """

    subject: ClassVar[str] = "entities"
    reference: Bools
    candidate: Bools
    margin: Doubles
    shift: Doubles

    def scores(self, tie: float) -> Scores:
        """Precision and recall of the entities, and the mean shift of those that both find."""
        tied, both = self.margin <= tie, self.reference & self.candidate
        wanted, given = self.reference.sum(), self.candidate.sum()
        lost = (self.reference & ~self.candidate & ~tied).sum()
        made_up = (self.candidate & ~self.reference & ~tied).sum()
        return {
            "entity_precision": 1.0 - float(made_up / given) if given else None,
            "entity_recall": 1.0 - float(lost / wanted) if wanted else None,
            "score_shift": float(self.shift[both].mean()) if both.any() else None,
        }


def found_spans(
    head: GlinerHead,
    feeds: Mapping[str, NDArray[Any]],
    reference: NDArray[np.floating],
    candidate: NDArray[np.floating],
) -> FoundSpans:
    """The entities of one batch from the logits of both models, see `GlinerHead.output_shape`."""
    # What is not finite fails on its own; here it must only not stop the rest.
    sides = [np.nan_to_num(reference), np.nan_to_num(candidate)]
    rows: list[tuple[bool, bool, float, float]] = []
    for index, labels in enumerate(label_counts(head, feeds).tolist()):
        words = int(feeds["text_lengths"][index, 0])
        ref, cand = (side[index] for side in sides)
        found = [
            chosen(span_logits(head, values, words, labels, THRESHOLD)) for values in (ref, cand)
        ]
        rows += _compared(head, ref, cand, *found)
    table = np.array(rows, np.float64).reshape(-1, 4)
    return FoundSpans(table[:, 0] > 0, table[:, 1] > 0, table[:, 2], table[:, 3])


def _compared(
    head: GlinerHead,
    ref: NDArray[np.floating],
    cand: NDArray[np.floating],
    expected: Sequence[WordSpan],
    given: Sequence[WordSpan],
) -> Iterator[tuple[bool, bool, float, float]]:
    """A row of `FoundSpans` for each entity of one text."""
    places = [{(s.start, s.end, s.label): s for s in side} for side in (expected, given)]
    for place in {**places[0], **places[1]}:
        span = WordSpan(*place, 0.0)
        score, other = logit_of(head, ref, span), logit_of(head, cand, span)
        inside = place in places[0], place in places[1]
        # What the model that lacks it has in its place.
        rivals = [s for s in (given if inside[0] else expected) if excludes(s, span, False, False)]
        against = [abs(score - logit_of(head, ref, rival)) for rival in rivals]
        margin = 0.0 if all(inside) else min(against, default=float(np.sqrt(2.0) * abs(score)))
        shift = np.abs(np.subtract(*(sigmoid(np.array(value)) for value in (score, other))))
        yield (*inside, margin, float(shift))
