"""Scores of spans or words as entities: those above the threshold, the likeliest first, without
those that overlap one that was taken. As `gliner.decoding` 0.2 does it.

`W` words, `K` widths, `C` labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporter.model.gliner_head import GlinerHead

THRESHOLD = 0.5
"""A label is an entity's from this probability on, as in `gliner`."""


@dataclass(frozen=True)
class WordSpan:
    """Words `start` to `end`, both inside, with the index of a label and its logit."""

    start: int
    end: int
    label: int
    logit: float


def span_logits(
    head: GlinerHead, logits: NDArray[np.floating], words: int, labels: int, threshold: float
) -> list[WordSpan]:
    """Every span of a text whose probability is above the threshold, in the order of its words.

    Args:
        logits: of one text, `(W, K, C)` or `(W, C, 3)`; what is beyond its words and labels is
            padding.
    """
    bound = float(np.log(threshold / (1.0 - threshold))) if 0 < threshold < 1 else np.inf
    bound = -np.inf if threshold <= 0 else bound
    if head.scores_spans:
        kept = logits[:words, :, :labels].astype(np.float64)
        starts, widths, classes = np.nonzero(kept > bound)
        inside = starts + widths < words
        places = zip(starts[inside], widths[inside], classes[inside], strict=True)
        return [WordSpan(int(s), int(s + w), int(c), float(kept[s, w, c])) for s, w, c in places]
    return list(_joined(logits[:words, :labels].astype(np.float64), bound))


def _joined(scores: NDArray[np.float64], bound: float) -> Iterable[WordSpan]:
    """Spans of `(W, C, 3)`: from a start to an end with nothing below the bound between."""
    start, end, inside = (scores[..., part] for part in range(3))
    finals = np.argwhere(end > bound)
    for first, label in np.argwhere(start > bound):
        for last, other in finals:
            if other != label or last < first:
                continue
            between = inside[first : last + 1, label].min()
            if between >= bound:
                logit = min(between, start[first, label], end[last, label])
                yield WordSpan(int(first), int(last), int(label), float(logit))


def chosen(
    spans: Sequence[WordSpan], *, nested: bool = False, multi_label: bool = False
) -> list[WordSpan]:
    """The spans that stay, in the order of their first words.

    Args:
        nested: whether one may lie within another.
        multi_label: whether the same words may have several labels.
    """
    taken: list[WordSpan] = []
    for span in sorted(spans, key=lambda item: -item.logit):
        if not any(excludes(other, span, nested, multi_label) for other in taken):
            taken.append(span)
    return sorted(taken, key=lambda item: item.start)


def excludes(one: WordSpan, other: WordSpan, nested: bool, multi_label: bool) -> bool:
    """Whether two spans cannot both be entities."""
    if (one.start, one.end) == (other.start, other.end):
        return not multi_label
    if one.start > other.end or other.start > one.end:
        return False
    within = (one.start <= other.start and other.end <= one.end) or (
        other.start <= one.start and one.end <= other.end
    )
    return not (nested and within)


def logit_of(head: GlinerHead, logits: NDArray[np.floating], span: WordSpan) -> float:
    """The logit of a span in the logits of its text, whether or not it is above a threshold."""
    if head.scores_spans:
        return float(logits[span.start, span.end - span.start, span.label])
    start, end, inside = (logits[..., span.label, part] for part in range(3))
    return float(min(start[span.start], end[span.end], inside[span.start : span.end + 1].min()))
