"""Classification: a score for each label, over all windows of a long text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from exporter.inputs.encode import Example
from exporter.metrics.decisions import sigmoid
from exporter.model.answer_spans import softmax
from exporter.model.model_shape import ModelShape, label_kind
from exporter.predictions.predicted import Label, LabelPrediction
from exporter.predictions.prediction_options import PredictionOptions
from exporter.predictions.text_windows import amount_read, pair_of

Doubles = NDArray[np.float64]


def class_scores(shape: ModelShape, logits: Doubles) -> Doubles:
    """What logits `(..., L)` mean by the model's `label_kind`: probabilities, or themselves."""
    kind = label_kind(shape)
    if kind == "value":
        return logits
    return softmax(logits) if kind == "softmax" else sigmoid(logits)


def label_prediction(
    shape: ModelShape,
    windows: Sequence[Example],
    logits: Sequence[Doubles],
    options: PredictionOptions,
) -> LabelPrediction:
    """The labels of a text, the highest score first; those of a regression in their own order.

    `logits` are `(L,)` of each window. The largest scores of exclusive classes over several windows
    do not add up to 1.
    """
    kind, each = label_kind(shape), class_scores(shape, np.stack(logits))
    scores: Doubles = each.mean(axis=0) if options.windows == "mean" else each.max(axis=0)
    order = np.argsort(-scores, kind="stable") if kind != "value" else np.arange(len(scores))
    labels = tuple(Label(shape.id2label[int(i)], float(scores[i])) for i in order)
    if options.threshold is not None:
        labels = tuple(label for label in labels if label.score >= options.threshold)
    text, read = windows[0].text, amount_read(windows)
    return LabelPrediction(text, pair_of(windows[0]), kind, labels[: options.top_k], **read)
