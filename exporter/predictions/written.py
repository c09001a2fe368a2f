"""Predictions as columns, and rows of columns as lines of JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields

from exporter.model.task import Task
from exporter.predictions.predicted import (
    AnswerPrediction,
    ChoicePrediction,
    LabelPrediction,
    MaskPrediction,
    Prediction,
    SpanPrediction,
    TokenPrediction,
    VectorPrediction,
    ZeroShotPrediction,
)

KINDS: Mapping[Task, type[Prediction]] = {
    Task.SEQUENCE_CLASSIFICATION: LabelPrediction,
    Task.TOKEN_CLASSIFICATION: TokenPrediction,
    Task.QUESTION_ANSWERING: AnswerPrediction,
    Task.MASKED_LM: MaskPrediction,
    Task.MULTIPLE_CHOICE: ChoicePrediction,
    Task.BASE: VectorPrediction,
    Task.GLINER: SpanPrediction,
}
"""What a text is answered with, by task."""

BEST = ("best", "score")
_WITH_BEST = (LabelPrediction, ZeroShotPrediction, AnswerPrediction, ChoicePrediction)
_GIVEN = ("text", "pair", "question", "context")


def json_line(prediction: Prediction, ascii_only: bool = False) -> str:
    """One JSON object, without a line end."""
    return json.dumps(asdict(prediction), ensure_ascii=ascii_only)


def csv_lines(predictions: Iterable[Prediction]) -> Iterator[str]:
    """A header and a line for each; what is best has columns of its own, lists are JSON.

    All predictions are of one kind.
    """
    return csv_rows_lines({**_best(found), **asdict(found)} for found in predictions)


def csv_rows_lines(rows: Iterable[Mapping[str, object]]) -> Iterator[str]:
    """Rows of the same columns as lines of CSV, the header with the first; lists are JSON."""
    text = io.StringIO(newline="")
    writer: csv.DictWriter[str] | None = None
    for row in rows:
        if writer is None:
            writer = csv.DictWriter(text, list(row))
            writer.writeheader()
        writer.writerow({name: _cell(value) for name, value in row.items()})
        yield text.getvalue()
        text.seek(0)
        text.truncate()


def _cell(value: object) -> object:
    nested = isinstance(value, (tuple, list, dict))
    return json.dumps(value, ensure_ascii=False, default=str) if nested else value


def answer_names(kind: type[Prediction]) -> Sequence[str]:
    """Columns of what a prediction adds to a row that has its texts; see `answer_columns`."""
    named = (item.name for item in fields(kind))
    return list(dict.fromkeys([*_best_names(kind), *(n for n in named if n not in _GIVEN)]))


def answer_columns(prediction: Prediction) -> dict[str, object]:
    """What a prediction adds to a row that has its texts: the best and its score, then the rest."""
    values = {**_best(prediction), **asdict(prediction)}
    return {name: values[name] for name in answer_names(type(prediction))}


def _best_names(kind: type[Prediction]) -> Sequence[str]:
    return BEST if issubclass(kind, _WITH_BEST) else ()


def _best(prediction: Prediction) -> dict[str, object]:
    """The first label, answer or choice with its score; empty cells where there is none."""
    match prediction:
        case LabelPrediction(labels=labels) | ZeroShotPrediction(labels=labels):
            found = [(item.label, item.score) for item in labels[:1]]
        case ChoicePrediction(choices=choices, best=best):
            found = [(choices[best].label, choices[best].score)]
        case AnswerPrediction(answers=answers):
            found = [(item.answer, item.score) for item in answers[:1]]
        case _:
            return {}
    return dict(zip(BEST, found[0] if found else (None, None), strict=True))
