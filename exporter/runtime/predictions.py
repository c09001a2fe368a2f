"""Model outputs as answers: labels, labelled tokens, spans, filled masks, choices, vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from exporter.deberta.tokenization import Tokenizer
from exporter.inputs.encode import Example
from exporter.model.model_shape import ModelShape, label_kind
from exporter.model.task import Task

Doubles = NDArray[np.float64]

MAX_ANSWER_TOKENS = 30
"""Longest answer span considered."""

ANSWERS = 3
FILLS = 5


@dataclass(frozen=True)
class Label:
    """A class and its score: a probability, or the raw value for a regression."""

    label: str
    score: float


@dataclass(frozen=True)
class LabelPrediction:
    """Classification of a text or pair; `labels` has the highest score first.

    `kind` says what the scores are: "softmax" probabilities of exclusive classes, "sigmoid"
    probabilities of independent ones, or the "value" of a regression.
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
    """The prediction for one example.

    Args:
        shape: the model.
        tokenizer: names the tokens of masked LM.
        example: the text.
        outputs: this example's part of each output, without the batch dimension; padding at the
            end of the sequence is ignored.
    """
    values = {name: np.asarray(array, np.float64) for name, array in outputs.items()}
    if shape.task is Task.MASKED_LM:
        return _masks(tokenizer, example, values)
    return _DECODERS[shape.task](shape, example, values)


def _labels(shape: ModelShape, example: Example, values: Mapping[str, Doubles]) -> Prediction:
    logits = values["logits"]
    kind = label_kind(shape)
    scores = logits
    if kind != "value":
        scores = softmax(logits) if kind == "softmax" else sigmoid(logits)
    order = np.argsort(-scores, kind="stable") if kind != "value" else np.arange(len(scores))
    labels = tuple(Label(shape.id2label[int(i)], float(scores[i])) for i in order)
    return LabelPrediction(example.text, _pair(example), kind, labels)


def _tokens(shape: ModelShape, example: Example, values: Mapping[str, Doubles]) -> Prediction:
    (row,) = example.rows
    probabilities = softmax(values["logits"][: len(row)])
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


def _answers(shape: ModelShape, example: Example, values: Mapping[str, Doubles]) -> Prediction:
    del shape
    (row,) = example.rows
    (context,) = example.second
    places = [i for i, sequence in enumerate(row.sequence_ids) if sequence == 1]
    found: list[Answer] = []
    if places:
        start, end = (softmax(values[f"{name}_logits"][places]) for name in ("start", "end"))
        # Spans that start at i and end at j, i <= j, no longer than the maximum.
        scores = np.triu(np.outer(start, end))
        scores -= np.triu(scores, MAX_ANSWER_TOKENS)
        for flat in np.argsort(-scores, axis=None, kind="stable")[:ANSWERS]:
            i, j = (int(index) for index in np.unravel_index(flat, scores.shape))
            if i > j or j - i >= MAX_ANSWER_TOKENS:
                break  # only the zeros outside the band are left
            first, last = _trim(context, row.offsets[places[i]][0], row.offsets[places[j]][1])
            found.append(Answer(context[first:last], first, last, float(scores[i, j])))
    return AnswerPrediction(example.text, context, tuple(found))


def _masks(tokenizer: Tokenizer, example: Example, values: Mapping[str, Doubles]) -> Prediction:
    (row,) = example.rows
    masks = []
    for index, token in enumerate(row.input_ids):
        if token != tokenizer.mask_token_id:
            continue
        probabilities = softmax(values["logits"][index])
        best = np.argsort(-probabilities, kind="stable")[:FILLS]
        fills = (
            Fill(tokenizer.decode([int(i)], skip_special_tokens=False), float(probabilities[i]))
            for i in best
        )
        masks.append(tuple(fills))
    return MaskPrediction(example.text, _pair(example), tuple(masks))


def _choices(shape: ModelShape, example: Example, values: Mapping[str, Doubles]) -> Prediction:
    del shape
    scores = softmax(values["logits"])
    choices = zip(example.second, scores, strict=True)
    labels = tuple(Label(choice, float(score)) for choice, score in choices)
    return ChoicePrediction(example.text, labels, int(scores.argmax()))


def _vector(shape: ModelShape, example: Example, values: Mapping[str, Doubles]) -> Prediction:
    del shape
    (row,) = example.rows
    mean = values["last_hidden_state"][: len(row)].mean(axis=0)
    return VectorPrediction(example.text, _pair(example), len(row), tuple(mean.tolist()))


_DECODERS: Mapping[Task, Callable[[ModelShape, Example, Mapping[str, Doubles]], Prediction]] = {
    Task.BASE: _vector,
    Task.SEQUENCE_CLASSIFICATION: _labels,
    Task.TOKEN_CLASSIFICATION: _tokens,
    Task.QUESTION_ANSWERING: _answers,
    Task.MULTIPLE_CHOICE: _choices,
}


def softmax(logits: Doubles) -> Doubles:
    """Softmax over the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Doubles = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return result


def sigmoid(logits: Doubles) -> Doubles:
    """Logistic function, without overflow."""
    result: Doubles = np.exp(-np.logaddexp(0.0, -logits))
    return result


def _pair(example: Example) -> str | None:
    return example.second[0] if example.second else None


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without the white space around it; tokens carry the space before their word."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
