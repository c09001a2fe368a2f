"""Labels that the model was not trained for: a text entails the hypothesis that names one.

As `pipelines/zero_shot_classification.py` of transformers scores them; the labels of the model are
found by name.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from exporter.errors import InputError
from exporter.inputs.encode import Example
from exporter.model.answer_spans import softmax
from exporter.model.model_shape import ModelShape
from exporter.model.task import Task
from exporter.predictions.predicted import Label, ZeroShotPrediction
from exporter.predictions.text_windows import amount_read

HYPOTHESIS = "This example is {}."


def hypotheses(labels: Sequence[str], template: str) -> tuple[str, ...]:
    """The hypothesis of each label; InputError for no label, or a template without `{}`."""
    if not labels or not all(label.strip() for label in labels):
        raise InputError("zero-shot: give one label or more, none of them empty")
    if template.count("{}") != 1:
        raise InputError(f"hypothesis {template!r}: write {{}} once, where the label goes")
    return tuple(template.replace("{}", label) for label in labels)


def entailment_labels(shape: ModelShape) -> tuple[int, int]:
    """The model's labels for what follows from a text, and for what contradicts it.

    Raises:
        InputError: the model is no classifier, or its labels have no entailment and another one.
    """
    names = {index: name.lower() for index, name in shape.id2label.items()}
    entailed = [index for index, name in names.items() if name.startswith("entail")]
    against = [index for index, name in names.items() if name.startswith("contra")]
    against = against or [i for i, name in names.items() if name.startswith(("not", "non"))]
    if shape.task is not Task.SEQUENCE_CLASSIFICATION or len(entailed) != 1 or len(against) != 1:
        raise InputError(
            f"zero-shot needs a classifier with the labels entailment and contradiction; this is "
            f"{shape.task} with {', '.join(shape.id2label.values())}"
        )
    return entailed[0], against[0]


def zero_shot_prediction(
    shape: ModelShape,
    labels: Sequence[str],
    examples: Sequence[Example],
    logits: NDArray[np.float64],
    multi_label: bool,
) -> ZeroShotPrediction:
    """The labels of one text; `logits` `(N, L)` are those of its pair with each hypothesis."""
    entailed, against = entailment_labels(shape)
    if multi_label or len(labels) == 1:
        scores = softmax(logits[:, [against, entailed]])[:, 1]
    else:
        scores = softmax(logits[:, entailed])
    order = np.argsort(-scores, kind="stable").tolist()
    found = tuple(Label(labels[i], float(scores[i])) for i in order)
    # The pair that was cut most stands for all.
    worst = max(examples, key=lambda example: example.rows[0].total - len(example.rows[0]))
    name = shape.id2label[entailed]
    return ZeroShotPrediction(worst.text, found, name, multi_label, **amount_read([worst]))
