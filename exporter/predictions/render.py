"""Predictions as text for a terminal."""

from __future__ import annotations

from exporter.console import aligned, one_line
from exporter.predictions.predicted import (
    AnswerPrediction,
    ChoicePrediction,
    Label,
    LabelPrediction,
    MaskPrediction,
    Prediction,
    RankedPassage,
    SpanPrediction,
    TokenPrediction,
    VectorPrediction,
    ZeroShotPrediction,
)

_SHOWN_LABELS, _SHOWN_VALUES = 5, 4


def render(prediction: Prediction) -> str:
    """The prediction as lines: the text, then what was found, indented."""
    match prediction:
        case (
            AnswerPrediction(question=title)
            | ChoicePrediction(text=title)
            | ZeroShotPrediction(text=title)
            | SpanPrediction(text=title)
        ):
            pass
        case RankedPassage(passage=title):
            pass
        case _:
            title = " | ".join(filter(None, (prediction.text, prediction.pair)))
    return "\n".join([one_line(title), *(f"  {one_line(line)}" for line in _lines(prediction))])


def _lines(prediction: Prediction) -> list[str]:
    match prediction:
        case LabelPrediction(kind="value", labels=labels):
            return [f"{label.label}  {label.score:.6g} (value)" for label in labels]
        case LabelPrediction(kind="sigmoid", labels=(one,)):
            return [f"{one.label}  {one.score:.4f} (sigmoid)"]
        case LabelPrediction(labels=labels) | ZeroShotPrediction(labels=labels):
            rest = len(labels) - _SHOWN_LABELS
            return _scores(labels[:_SHOWN_LABELS]) + [f"and {rest} more"] * (rest > 0)
        case TokenPrediction(tokens=tokens, entities=entities):
            rows = [(f"{t.start}-{t.end}", t.token, t.label, f"{t.score:.4f}") for t in tokens]
            found = [f"{e.label}: {e.text}  ({e.start}-{e.end}) {e.score:.4f}" for e in entities]
            return [*aligned(rows), *found] if rows else ["no tokens"]
        case SpanPrediction(entities=entities):
            found = [f"{e.label}: {e.text}  ({e.start}-{e.end}) {e.score:.4f}" for e in entities]
            return found or ["no entities"]
        case AnswerPrediction(answers=answers):
            found = [
                f"{a.score:.4f}  {a.answer}  ({a.start}-{a.end})"
                if a.answer
                else f"{a.score:.4f}  no answer"
                for a in answers
            ]
            return found or ["no answer: the context is empty"]
        case MaskPrediction(masks=masks):
            fills = (
                "  ".join(f"{fill.token.strip()} {fill.score:.4f}" for fill in mask)
                for mask in masks
            )
            found = [f"mask {number}:  {text}" for number, text in enumerate(fills, 1)]
            return found or ["no mask token in the text"]
        case ChoicePrediction(choices=choices, best=best):
            lines = enumerate(_scores(choices))
            return [f"{'*' if index == best else ' '} {line}" for index, line in lines]
        case RankedPassage(index=index, score=score):
            return [f"{score:.6g}  text {index}"]
        case VectorPrediction(tokens=count, vector=vector, pooling=pooling):
            shown = ", ".join(f"{value:.4f}" for value in vector[:_SHOWN_VALUES])
            more = ", ..." if len(vector) > _SHOWN_VALUES else ""
            source = f"mean of {count} tokens" if pooling == "mean" else "first token"
            return [f"{source}, {len(vector)} values: {shown}{more}"]


def _scores(labels: tuple[Label, ...]) -> list[str]:
    return aligned([(label.label, f"{label.score:.4f}") for label in labels])
