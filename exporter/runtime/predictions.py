"""Model outputs as answers: labels, labelled tokens, spans, filled masks, choices, vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from exporter.deberta.tokenization import Tokenizer
from exporter.inputs.encode import Example
from exporter.metrics.decisions import sigmoid
from exporter.model.answer_spans import answer_spans, softmax
from exporter.model.model_shape import ModelShape, label_kind
from exporter.model.task import Task

Doubles = NDArray[np.float64]

ANSWERS = 3
FILLS = 5


@dataclass(frozen=True)
class Label:
    """A class and its score: a probability, or the raw value: see `LabelPrediction.kind`."""

    label: str
    score: float


@dataclass(frozen=True)
class LabelPrediction:
    """Classification of a text or pair; `labels` has the highest score first.

    `kind` says what the scores are: "softmax" probabilities of exclusive classes, "sigmoid"
    probabilities of independent ones or of a single one, or the raw "value", of a regression or
    because the checkpoint says so; see `label_kind`.
    """

    text: str
    pair: str | None
    kind: str
    labels: tuple[Label, ...]


@dataclass(frozen=True)
class TokenLabel:
    """A token with its label; `start` and `end` are characters of the text, or of the pair's."""

    token: str
    start: int
    end: int
    in_pair: bool
    label: str
    score: float


@dataclass(frozen=True)
class TokenPrediction:
    """Classification of the tokens of a text, special tokens left out."""

    text: str
    pair: str | None
    tokens: tuple[TokenLabel, ...]


@dataclass(frozen=True)
class Answer:
    """A span of the context, in characters, with its probability."""

    answer: str
    start: int
    end: int
    score: float


@dataclass(frozen=True)
class AnswerPrediction:
    """Answers to a question, best first; none when the context has no token."""

    question: str
    context: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Fill:
    """A token that may stand for a mask, with its probability."""

    token: str
    score: float


@dataclass(frozen=True)
class MaskPrediction:
    """Fills of every mask of a text, in order, the likeliest fill first."""

    text: str
    pair: str | None
    masks: tuple[tuple[Fill, ...], ...]


@dataclass(frozen=True)
class ChoicePrediction:
    """Probabilities of the choices, in the order given; `best` is the index of the likeliest."""

    text: str
    choices: tuple[Label, ...]
    best: int


@dataclass(frozen=True)
class VectorPrediction:
    """Mean of the last hidden state over the tokens of a text; special tokens count."""

    text: str
    pair: str | None
    tokens: int
    vector: tuple[float, ...]


Prediction: TypeAlias = (
    LabelPrediction
    | TokenPrediction
    | AnswerPrediction
    | MaskPrediction
    | ChoicePrediction
    | VectorPrediction
)


def decode(
    shape: ModelShape,
    tokenizer: Tokenizer,
    example: Example,
    outputs: Mapping[str, NDArray[np.floating]],
) -> Prediction:
    """The prediction for one example; the tokenizer names the tokens of masked LM.

    `outputs` has this example's part of each output, without the batch dimension; padding at the
    end of the sequence is ignored.
    """
    values = [np.asarray(outputs[name], np.float64) for name in shape.outputs]
    match shape.task:
        case Task.BASE:
            return _vector(example, *values)
        case Task.MASKED_LM:
            return _masks(tokenizer, example, *values)
        case Task.SEQUENCE_CLASSIFICATION:
            return _labels(shape, example, *values)
        case Task.TOKEN_CLASSIFICATION:
            return _tokens(shape, example, *values)
        case Task.QUESTION_ANSWERING:
            return _answers(example, *values)
        case Task.MULTIPLE_CHOICE:
            return _choices(example, *values)


def _labels(shape: ModelShape, example: Example, logits: Doubles) -> Prediction:
    kind = label_kind(shape)
    scores = logits
    if kind != "value":
        scores = softmax(logits) if kind == "softmax" else sigmoid(logits)
    order = np.argsort(-scores, kind="stable") if kind != "value" else np.arange(len(scores))
    labels = tuple(Label(shape.id2label[int(i)], float(scores[i])) for i in order)
    return LabelPrediction(example.text, _pair(example), kind, labels)


def _tokens(shape: ModelShape, example: Example, logits: Doubles) -> Prediction:
    (row,) = example.rows
    probabilities = softmax(logits[: len(row)])
    tokens = []
    for index, sequence in enumerate(row.sequence_ids):
        if sequence is None:
            continue
        source = example.second[0] if sequence else example.text
        start, end = _trim(source, *row.offsets[index])
        best = int(probabilities[index].argmax())
        label, score = shape.id2label[best], float(probabilities[index, best])
        tokens.append(TokenLabel(source[start:end], start, end, sequence == 1, label, score))
    return TokenPrediction(example.text, _pair(example), tuple(tokens))


def _answers(example: Example, starts: Doubles, ends: Doubles) -> Prediction:
    (row,) = example.rows
    (context,) = example.second
    places = [i for i, sequence in enumerate(row.sequence_ids) if sequence == 1]
    found: list[Answer] = []
    if places:
        for i, j, score in answer_spans(starts[places], ends[places], ANSWERS):
            first, last = _trim(context, row.offsets[places[i]][0], row.offsets[places[j]][1])
            found.append(Answer(context[first:last], first, last, score))
    return AnswerPrediction(example.text, context, tuple(found))


def _masks(tokenizer: Tokenizer, example: Example, logits: Doubles) -> Prediction:
    (row,) = example.rows
    masks = []
    for index, token in enumerate(row.input_ids):
        if token == tokenizer.mask_token_id:
            scores = softmax(logits[index])
            best = np.argsort(-scores, kind="stable")[:FILLS].tolist()
            tokens = (tokenizer.decode([i], skip_special_tokens=False) for i in best)
            masks.append(tuple(map(Fill, tokens, scores[best].tolist())))
    return MaskPrediction(example.text, _pair(example), tuple(masks))


def _choices(example: Example, logits: Doubles) -> Prediction:
    scores = softmax(logits)
    labels = tuple(map(Label, example.second, scores.tolist()))
    return ChoicePrediction(example.text, labels, int(scores.argmax()))


def _vector(example: Example, states: Doubles) -> Prediction:
    (row,) = example.rows
    mean = states[: len(row)].mean(axis=0)
    return VectorPrediction(example.text, _pair(example), len(row), tuple(mean.tolist()))


def _pair(example: Example) -> str | None:
    return example.second[0] if example.second else None


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without the white space around it; tokens carry the space before their word."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
