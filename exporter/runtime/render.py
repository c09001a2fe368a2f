"""Predictions as text for a terminal."""

from __future__ import annotations

from functools import singledispatch

from exporter.runtime.predictions import (
    AnswerPrediction,
    ChoicePrediction,
    Label,
    LabelPrediction,
    MaskPrediction,
    Prediction,
    TokenPrediction,
    VectorPrediction,
)

_SHOWN_LABELS = 5
_SHOWN_VALUES = 4


def render(prediction: Prediction) -> str:
    """The prediction as lines: the text, then what was found, indented."""
    return "\n".join([_title(prediction), *(f"  {line}" for line in _lines(prediction))])


def _title(prediction: Prediction) -> str:
    if isinstance(prediction, AnswerPrediction):
        return prediction.question
    pair = None if isinstance(prediction, ChoicePrediction) else prediction.pair
    return prediction.text if pair is None else f"{prediction.text} | {pair}"


@singledispatch
def _lines(prediction: Prediction) -> list[str]:
    raise TypeError(f"no rendering for {type(prediction).__name__}")


@_lines.register
def _(prediction: LabelPrediction) -> list[str]:
    if prediction.kind == "value":
        return [f"{label.label}  {label.score:.6g}" for label in prediction.labels]
    lines = _scores(prediction.labels[:_SHOWN_LABELS])
    rest = len(prediction.labels) - _SHOWN_LABELS
    return [*lines, f"and {rest} more"] if rest > 0 else lines


@_lines.register
def _(prediction: TokenPrediction) -> list[str]:
    rows = [
        (f"{token.start}-{token.end}", token.token, token.label, f"{token.score:.4f}")
        for token in prediction.tokens
    ]
    if not rows:
        return ["no tokens"]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


@_lines.register
def _(prediction: AnswerPrediction) -> list[str]:
    found = [
        f"{answer.score:.4f}  {answer.answer}  ({answer.start}-{answer.end})"
        for answer in prediction.answers
    ]
    return found or ["no answer: the context is empty"]


@_lines.register
def _(prediction: MaskPrediction) -> list[str]:
    if not prediction.masks:
        return ["no mask token in the text"]
    return [
        f"mask {number}:  " + "  ".join(f"{fill.token.strip()} {fill.score:.4f}" for fill in fills)
        for number, fills in enumerate(prediction.masks, 1)
    ]


@_lines.register
def _(prediction: ChoicePrediction) -> list[str]:
    lines = _scores(prediction.choices)
    return [f"{'*' if i == prediction.best else ' '} {line}" for i, line in enumerate(lines)]


@_lines.register
def _(prediction: VectorPrediction) -> list[str]:
    shown = ", ".join(f"{value:.4f}" for value in prediction.vector[:_SHOWN_VALUES])
    more = ", ..." if len(prediction.vector) > _SHOWN_VALUES else ""
    size = len(prediction.vector)
    return [f"mean of {prediction.tokens} tokens, {size} values: {shown}{more}"]


def _scores(labels: tuple[Label, ...]) -> list[str]:
    width = max((len(label.label) for label in labels), default=0)
    return [f"{label.label.ljust(width)}  {label.score:.4f}" for label in labels]
