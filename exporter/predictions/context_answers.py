"""Question answering: the likeliest spans of a context, over all windows of a long one.

The scores are those of `pipelines/question_answering.py` of transformers 4.57: in each window the
probabilities of first and last token are taken over the context and `[CLS]`, whose product is the
null answer; a span of whole words stands for its tokens, and equal texts add up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from exporter.inputs.encode import Example
from exporter.model.answer_spans import MAX_ANSWER_TOKENS, answer_spans, softmax
from exporter.predictions.predicted import ANSWERS, Answer, AnswerPrediction
from exporter.predictions.prediction_options import PredictionOptions
from exporter.predictions.text_windows import amount_read, trimmed

Doubles = NDArray[np.float64]
_CONTEXT = 1
"""The context's place in a pair."""


def answer_prediction(
    windows: Sequence[Example],
    logits: Sequence[tuple[Doubles, ...]],
    options: PredictionOptions,
) -> AnswerPrediction:
    """Answers to a question; none where the context has no token.

    `logits` are those of the first and of the last token, `(S,)` each, for each window.
    """
    question, (context,) = windows[0].text, windows[0].second
    wanted, words = options.top_k or ANSWERS, _words(windows)
    longest = options.answer_tokens or MAX_ANSWER_TOKENS
    scores: dict[str, float] = {}
    spans: dict[str, tuple[int, int]] = {}
    null = 1.0
    for window, (starts, ends) in zip(windows, logits, strict=True):
        (row,) = window.rows
        places = [i for i, sequence in enumerate(row.sequence_ids) if sequence == _CONTEXT]
        if not places:
            continue
        first, last = (softmax(values[[0, *places]]) for values in (starts, ends))
        null = min(null, float(first[0] * last[0]))
        # More than are wanted, since different tokens of the same words are one answer.
        count = wanted if options.split_words else 2 * wanted + 10
        for i, j, score in answer_spans(first[1:], last[1:], count, longest):
            begin, end = row.offsets[places[i]][0], row.offsets[places[j]][1]
            if not options.split_words:
                begin = words[row.words[places[i]] or 0][0]
                end = words[row.words[places[j]] or 0][1]
            key = context[begin:end].lower()
            spans.setdefault(key, (begin, end))
            scores[key] = scores.get(key, 0.0) + score
    answers = list(_answers(context, spans, scores))
    if options.null_answer and spans:
        answers.append(Answer("", 0, 0, null))
    best = sorted(answers, key=lambda answer: -answer.score)[:wanted]
    return AnswerPrediction(question, context, tuple(best), **amount_read(windows))


def _words(windows: Sequence[Example]) -> dict[int, tuple[int, int]]:
    """First and last character of each word of the context, also of those that a window cuts."""
    found: dict[int, tuple[int, int]] = {}
    for window in windows:
        (row,) = window.rows
        for word, sequence, (begin, end) in zip(
            row.words, row.sequence_ids, row.offsets, strict=True
        ):
            if word is not None and sequence == _CONTEXT:
                least, most = found.get(word, (begin, end))
                found[word] = (min(least, begin), max(most, end))
    return found


def _answers(
    context: str, spans: dict[str, tuple[int, int]], scores: dict[str, float]
) -> Iterator[Answer]:
    for key, (begin, end) in spans.items():
        begin, end = trimmed(context, begin, end)
        yield Answer(context[begin:end], begin, end, scores[key])
