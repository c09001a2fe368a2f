"""The logits of a GLiNER model as entities with characters, in one window or several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from exporter.inputs.encode import Example
from exporter.metrics.decisions import sigmoid
from exporter.model.gliner_entities import THRESHOLD, WordSpan, chosen, span_logits
from exporter.model.gliner_head import GlinerHead
from exporter.predictions.predicted import Entity, SpanPrediction
from exporter.predictions.prediction_options import PredictionOptions


def span_prediction(
    head: GlinerHead,
    windows: Sequence[Example],
    logits: Sequence[NDArray[np.floating]],
    options: PredictionOptions,
) -> SpanPrediction:
    """The entities of a text, from the logits of each of its windows, in the order of the text.

    A span that several windows have whole counts in the one that has most words around it.
    """
    first = windows[0]
    threshold = THRESHOLD if options.threshold is None else options.threshold
    found = list(_in_windows(head, windows, logits, threshold))
    kept = chosen(found, nested=options.nested, multi_label=options.multi_label)
    words = {
        window.first_word + place: span
        for window in windows
        for place, span in enumerate(window.words)
    }
    entities = []
    for span in kept:
        start, end = words[span.start][0], words[span.end][1]
        score = float(sigmoid(np.array(span.logit)))
        label = first.second[span.label]
        entities.append(Entity(label, first.text[start:end], start, end, False, score))
    total = first.rows[0].total
    read = _read(windows)
    return SpanPrediction(
        text=first.text,
        asked=first.second,
        entities=tuple(entities),
        tokens_read=read,
        tokens_total=total,
        truncated=read < total,
    )


def _in_windows(
    head: GlinerHead,
    windows: Sequence[Example],
    logits: Sequence[NDArray[np.floating]],
    threshold: float,
) -> Iterator[WordSpan]:
    """The spans above the threshold, by their words in the text, each once."""
    bounds = [(item.first_word, item.first_word + len(item.words) - 1) for item in windows]
    for number, (window, values) in enumerate(zip(windows, logits, strict=True)):
        words, labels = len(window.words), len(window.second)
        for span in span_logits(head, values, words, labels, threshold):
            moved = replace(
                span, start=span.start + window.first_word, end=span.end + window.first_word
            )
            if _owner(moved, bounds) == number:
                yield moved


def _owner(span: WordSpan, bounds: Sequence[tuple[int, int]]) -> int:
    """The window that has a span and most words on the side where it has the fewest."""
    last = bounds[-1][1]
    best, most = -1, -1
    for number, (first, final) in enumerate(bounds):
        if first <= span.start and span.end <= final:
            # Where the text itself begins or ends, nothing is missing.
            left = last if first == 0 else span.start - first
            right = last if final == last else final - span.end
            if min(left, right) > most:
                best, most = number, min(left, right)
    return best


def _read(windows: Sequence[Example]) -> int:
    """Tokens that the model saw, those of words in two windows once."""
    marks = 0
    seen: dict[int, int] = {}
    for window in windows:
        (row,) = window.rows
        counts: dict[int, int] = {}
        for word in row.words:
            if word is not None:
                counts[window.first_word + word] = counts.get(window.first_word + word, 0) + 1
        marks = len(row) - sum(counts.values())
        seen |= {word: max(count, seen.get(word, 0)) for word, count in counts.items()}
    return marks + sum(seen.values())
