"""The likeliest answer spans of a question's context."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

MAX_ANSWER_TOKENS = 15
"""Longest answer span considered, that of the pipeline of transformers."""


def softmax(logits: Doubles) -> Doubles:
    """Softmax over the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Doubles = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return result


def answer_spans(
    start: Doubles, end: Doubles, count: int, longest: int = MAX_ANSWER_TOKENS
) -> Iterator[tuple[int, int, float]]:
    """Spans of a context with their probabilities, the likeliest first.

    Args:
        start: `(N,)`, probabilities of the context's tokens, or any values in their proportion;
            N >= 1.
        end: the same of the last token.
        count: how many spans at most.
        longest: tokens of a span at most.

    Yields:
        first and last token, first <= last < first + `longest`, and the probability.
    """
    scores = np.triu(np.outer(start, end))
    scores -= np.triu(scores, longest)
    for flat in np.argsort(-scores, axis=None, kind="stable")[:count]:
        first, last = (int(index) for index in np.unravel_index(flat, scores.shape))
        if first > last or last - first >= longest:
            return  # only the zeros outside the band are left
        yield first, last, float(scores[first, last])
