"""The likeliest answer spans of a question's context."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

MAX_ANSWER_TOKENS = 30
"""Longest answer span considered."""


def softmax(logits: Doubles) -> Doubles:
    """Softmax over the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Doubles = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return result


def answer_spans(start: Doubles, end: Doubles, count: int) -> Iterator[tuple[int, int, float]]:
    """Spans of a context with their probabilities, the likeliest first.

    Args:
        start: `(N,)`, logits of the context's tokens; N >= 1.
        end: the same of the last token.
        count: how many spans at most.

    Yields:
        first and last token, first <= last < first + `MAX_ANSWER_TOKENS`, and the probability.
    """
    scores = np.triu(np.outer(softmax(start), softmax(end)))
    scores -= np.triu(scores, MAX_ANSWER_TOKENS)
    for flat in np.argsort(-scores, axis=None, kind="stable")[:count]:
        first, last = (int(index) for index in np.unravel_index(flat, scores.shape))
        if first > last or last - first >= MAX_ANSWER_TOKENS:
            return  # only the zeros outside the band are left
        yield first, last, float(scores[first, last])
