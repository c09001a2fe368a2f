"""Predictions as lines of JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict

from exporter.predictions.predicted import (
    AnswerPrediction,
    ChoicePrediction,
    LabelPrediction,
    Prediction,
    ZeroShotPrediction,
)


def json_line(prediction: Prediction, ascii_only: bool = False) -> str:
    """One JSON object, without a line end."""
    return json.dumps(asdict(prediction), ensure_ascii=ascii_only)


def csv_lines(predictions: Iterable[Prediction]) -> Iterator[str]:
    """A header and a line for each; what is best has columns of its own, lists are JSON.

    All predictions are of one kind.
    """
    text = io.StringIO(newline="")
    writer: csv.DictWriter[str] | None = None
    for prediction in predictions:
        row = {
            name: json.dumps(value, ensure_ascii=False) if isinstance(value, tuple) else value
            for name, value in {**_best(prediction), **asdict(prediction)}.items()
        }
        if writer is None:
            writer = csv.DictWriter(text, row)
            writer.writeheader()
        writer.writerow(row)
        yield text.getvalue()
        text.seek(0)
        text.truncate()


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
    return dict(zip(("best", "score"), found[0] if found else (None, None), strict=True))
