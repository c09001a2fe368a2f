"""Token classification: the label of each token, and entities of them.

A long text is read in windows; each token's label is that of the window in which it has the most
text around it, so that no entity is cut or doubled where windows meet. The strategies are those of
`pipelines/token_classification.py` of transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from exporter.inputs.encode import Example
from exporter.model.answer_spans import softmax
from exporter.model.entities import OUTSIDE, entity_runs
from exporter.model.model_shape import ModelShape
from exporter.predictions.predicted import Entity, TokenLabel, TokenPrediction
from exporter.predictions.prediction_options import PredictionOptions
from exporter.predictions.text_windows import amount_read, pair_of, trimmed

Doubles = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Token:
    """A token of the first text (0) or the second (1), its word, characters, and probabilities."""

    sequence: int
    word: int | None
    start: int
    end: int
    scores: Doubles


def token_prediction(
    shape: ModelShape,
    windows: Sequence[Example],
    logits: Sequence[Doubles],
    options: PredictionOptions,
) -> TokenPrediction:
    """Tokens and entities of a text; `logits` are `(S, L)` of each window."""
    names = tuple(shape.id2label[index] for index in range(shape.num_labels))
    text, pair = windows[0].text, pair_of(windows[0])
    tokens = [
        _Token(
            row.sequence_ids[index] or 0,
            row.words[index],
            *row.offsets[index],
            softmax(logits[window][index]),
        )
        for window, index in _in_their_middle(windows)
        for row in windows[window].rows
    ]
    labelled = []
    for token in tokens:
        source, best = (text, pair or "")[token.sequence], int(token.scores.argmax())
        start, end = trimmed(source, token.start, token.end)
        score = float(token.scores[best])
        named = TokenLabel(source[start:end], start, end, token.sequence == 1, names[best], score)
        labelled.append(named)
    entities = _entities(tokens, names, (text, pair or ""), options.aggregation)
    return TokenPrediction(text, pair, tuple(labelled), tuple(entities), **amount_read(windows))


def _in_their_middle(windows: Sequence[Example]) -> list[tuple[int, int]]:
    """Window and index of each token of the texts, in their order."""
    cut = _cut_text(windows)
    chosen: dict[tuple[int, int], tuple[int, int, int]] = {}
    for number, window in enumerate(windows):
        (row,) = window.rows
        for sequence in (0, 1):
            inside = [i for i, s in enumerate(row.sequence_ids) if s == sequence]
            for place, index in enumerate(inside):
                # A text that is whole has the same place in all windows: the first one counts.
                around = min(place, len(inside) - 1 - place)
                key = (sequence, place + (row.skipped if sequence == cut else 0))
                if key not in chosen or around > chosen[key][0]:
                    chosen[key] = (around, number, index)
    return [(number, index) for _, (_, number, index) in sorted(chosen.items())]


def _cut_text(windows: Sequence[Example]) -> int:
    """Which text has other tokens in the last window than in the first: 0 or 1."""
    first, last = (
        [span for span, s in zip(row.offsets, row.sequence_ids, strict=True) if s == 0]
        for row in (windows[0].rows[0], windows[-1].rows[0])
    )
    return 0 if first != last else 1


def _entities(
    tokens: Sequence[_Token], names: Sequence[str], sources: tuple[str, str], aggregation: str
) -> Iterator[Entity]:
    """Runs of one type among the tokens, or among words of them."""
    parts = [[token] for token in tokens]
    if aggregation not in ("none", "simple"):
        parts = [list(word) for _, word in groupby(tokens, lambda t: (t.sequence, t.word))]
    if not parts:
        return
    scores = np.stack([_scores(part, aggregation) for part in parts])
    labels, best = scores.argmax(axis=1), scores.max(axis=1)
    if aggregation == "none":
        each = ((i, i + 1, names[label]) for i, label in enumerate(labels.tolist()))
        runs = [run for run in each if run[2] != OUTSIDE]
    else:
        starts = np.diff([part[0].sequence for part in parts], prepend=-1) != 0
        runs = entity_runs(names, labels, starts)
    for first, stop, label in runs:
        begin, end = parts[first][0], parts[stop - 1][-1]
        source, score = sources[begin.sequence], float(best[first:stop].mean())
        start, stopped = trimmed(source, begin.start, end.end)
        if start < stopped:  # a word mark may stand alone
            yield Entity(label, source[start:stopped], start, stopped, begin.sequence == 1, score)


def _scores(word: Sequence[_Token], aggregation: str) -> Doubles:
    """The probabilities `(L,)` of a word by those of its tokens."""
    if aggregation == "average":
        mean: Doubles = np.mean([token.scores for token in word], axis=0)
        return mean
    return (max(word, key=lambda t: t.scores.max()) if aggregation == "max" else word[0]).scores
