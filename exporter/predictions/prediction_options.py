"""How outputs of a model are read: one frozen set of options, checked where it is made."""

from __future__ import annotations

from dataclasses import dataclass

from exporter.errors import InputError

AGGREGATIONS = ("none", "simple", "first", "average", "max")
"""How labels of tokens become entities: those of transformers' pipeline."""
WINDOWS = ("cut", "max", "mean")
POOLINGS = ("mean", "cls")


@dataclass(frozen=True)
class PredictionOptions:
    """What a user wants to read; each option concerns the tasks that it names.

    Attributes:
        top_k: labels, answers, fills or choices of a text at most. None is all labels and choices,
            3 answers, 5 fills.
        threshold: smallest score of a label that is given, for classification; probability above
            which a span is an entity, for GLiNER, 0.5 by default.
        nested: whether an entity may lie within another, for GLiNER.
        multi_label: whether the same words may be entities of several labels, for GLiNER.
        aggregation: one of `AGGREGATIONS`, for entities. "none" gives each token that has a type,
            "simple" joins tokens, the others words, whose label is that of the "first" token, of
            the "average" of the probabilities, or of the token with the largest one ("max").
        stride: tokens that windows of a long text share, for token classification, question
            answering and `windows`; None is half of a window, at most 128.
        windows: what becomes of a text to classify that is too long: "cut", or read in windows of
            which each label gets the "max" or "mean" score.
        null_answer: whether "no answer" is an answer to a question, as in SQuAD 2; its score is
            the smallest of the windows.
        split_words: whether answers may begin or end within a word.
        answer_tokens: tokens of an answer at most; None is 15, as in transformers.
        pooling: "mean" over the tokens or that of the first ("cls"), for vectors.
        normalize: whether vectors get the length 1.

    Raises:
        InputError: a value that is none of these, or out of range.
    """

    top_k: int | None = None
    threshold: float | None = None
    nested: bool = False
    multi_label: bool = False
    aggregation: str = "first"
    stride: int | None = None
    windows: str = "cut"
    null_answer: bool = False
    split_words: bool = False
    answer_tokens: int | None = None
    pooling: str = "mean"
    normalize: bool = False

    def __post_init__(self) -> None:
        for name, choices in (
            ("aggregation", AGGREGATIONS), ("windows", WINDOWS), ("pooling", POOLINGS)
        ):  # fmt: skip
            value = getattr(self, name)
            if value not in choices:
                raise InputError(f"{name} {value!r}: unknown; choose from {', '.join(choices)}")
        for name, least in (("top_k", 1), ("stride", 0), ("answer_tokens", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} is {value}; give at least {least}")


DEFAULTS = PredictionOptions()
