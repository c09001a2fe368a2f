"""What a model predicts of a text, as data: labels, entities, answers, fills, choices, vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

ANSWERS = 3


@dataclass(frozen=True, kw_only=True)
class Read:
    """How much of a text was read; every prediction says so.

    `tokens_total` are those of the whole with its special tokens, `tokens_read` those that the
    model saw, in one window or several; `truncated` says that they are fewer.
    """

    tokens_read: int
    tokens_total: int
    truncated: bool


@dataclass(frozen=True)
class Label:
    """A class and its score: a probability, or the raw value: see `LabelPrediction.kind`."""

    label: str
    score: float


@dataclass(frozen=True)
class LabelPrediction(Read):
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
class Entity:
    """Tokens of one type; `start`, `end` and `in_pair` as those of a token, the score their mean.

    Under the aggregation "none" the label is the token's own, with its prefix.
    """

    label: str
    text: str
    start: int
    end: int
    in_pair: bool
    score: float


@dataclass(frozen=True)
class TokenPrediction(Read):
    """Classification of the tokens of a text, special tokens left out, and its entities."""

    text: str
    pair: str | None
    tokens: tuple[TokenLabel, ...]
    entities: tuple[Entity, ...]


@dataclass(frozen=True)
class SpanPrediction(Read):
    """Entities of any kind in a text, by their place, found by a GLiNER model.

    `asked` are the labels that it was asked for; the score of an entity is its probability.
    """

    text: str
    asked: tuple[str, ...]
    entities: tuple[Entity, ...]


@dataclass(frozen=True)
class Answer:
    """A span of the context, in characters, with its score; no answer is an empty one.

    The score is the probability of the span, its share of the mass of all spans and of the null
    answer; those of equal answers add up.
    """

    answer: str
    start: int
    end: int
    score: float


@dataclass(frozen=True)
class AnswerPrediction(Read):
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
class MaskPrediction(Read):
    """Fills of every mask of a text, in order, the likeliest fill first."""

    text: str
    pair: str | None
    masks: tuple[tuple[Fill, ...], ...]


@dataclass(frozen=True)
class ZeroShotPrediction(Read):
    """Which of some labels a text entails, the likeliest first.

    `entailment` is the model's own label that was read. With `multi_label` each label has its own
    probability, else they are exclusive.
    """

    text: str
    labels: tuple[Label, ...]
    entailment: str
    multi_label: bool


@dataclass(frozen=True)
class RankedPassage(Read):
    """A passage of a query's ranking: its place in what was given, and its score."""

    index: int
    passage: str
    score: float


@dataclass(frozen=True)
class ChoicePrediction(Read):
    """Probabilities of the choices, in the order given; `best` is the index of the likeliest."""

    text: str
    choices: tuple[Label, ...]
    best: int


@dataclass(frozen=True)
class VectorPrediction(Read):
    """The last hidden state of a text: the mean over its tokens, special ones too, or the first's.

    `pooling` says which.
    """

    text: str
    pair: str | None
    tokens: int
    pooling: str
    vector: tuple[float, ...]


Prediction: TypeAlias = (
    LabelPrediction
    | TokenPrediction
    | SpanPrediction
    | AnswerPrediction
    | MaskPrediction
    | ChoicePrediction
    | ZeroShotPrediction
    | RankedPassage
    | VectorPrediction
)
