"""Reranking: the passages of a query, the most relevant first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from exporter.errors import InputError
from exporter.inputs.encode import Example
from exporter.model.model_shape import ModelShape
from exporter.model.task import Task
from exporter.predictions.class_scores import class_scores
from exporter.predictions.predicted import RankedPassage
from exporter.predictions.text_windows import amount_read


def check_ranks(shape: ModelShape) -> None:
    """Raise an InputError unless the model gives a pair one value."""
    if shape.task is not Task.SEQUENCE_CLASSIFICATION or shape.num_labels != 1:
        raise InputError(
            f"rerank needs a classifier with one label; this is {shape.task} with "
            f"{shape.num_labels}"
        )


def ranked_passages(
    shape: ModelShape, examples: Sequence[Example], logits: NDArray[np.float64], top_k: int | None
) -> list[RankedPassage]:
    """The ranking; `logits` `(N, 1)` are those of the query with each passage, in their order."""
    scores = class_scores(shape, logits)[:, 0]
    order = np.argsort(-scores, kind="stable").tolist()[:top_k]
    return [
        RankedPassage(i, examples[i].second[0], float(scores[i]), **amount_read([examples[i]]))
        for i in order
    ]
