"""Outputs of a model as what it predicts; each task with more to it has a file of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from exporter.deberta.tokenization import Tokenizer
from exporter.inputs.encode import Example
from exporter.metrics.answers import FILLS
from exporter.model.answer_spans import softmax
from exporter.model.model_shape import ModelShape
from exporter.model.task import Task
from exporter.predictions.class_scores import label_prediction
from exporter.predictions.context_answers import answer_prediction
from exporter.predictions.predicted import (
    ChoicePrediction,
    Fill,
    Label,
    MaskPrediction,
    Prediction,
    VectorPrediction,
)
from exporter.predictions.prediction_options import DEFAULTS, PredictionOptions
from exporter.predictions.span_entities import span_prediction
from exporter.predictions.text_windows import amount_read, pair_of
from exporter.predictions.token_entities import token_prediction

Doubles = NDArray[np.float64]


def decode(
    shape: ModelShape,
    tokenizer: Tokenizer,
    windows: Sequence[Example],
    outputs: Sequence[Mapping[str, NDArray[np.floating]]],
    options: PredictionOptions = DEFAULTS,
) -> Prediction:
    """The prediction for one text; the tokenizer names the tokens of masked LM.

    `windows` are the text's, or the one example that it is; `outputs` have the part of each in each
    output, without the batch dimension. Padding at the end of a sequence is ignored.
    """
    values = [
        tuple(np.asarray(output[name], np.float64) for name in shape.outputs) for output in outputs
    ]
    firsts = [found[0] for found in values]
    match shape.task:
        case Task.SEQUENCE_CLASSIFICATION:
            return label_prediction(shape, windows, firsts, options)
        case Task.TOKEN_CLASSIFICATION:
            return token_prediction(shape, windows, firsts, options)
        case Task.QUESTION_ANSWERING:
            return answer_prediction(windows, values, options)
        case Task.BASE:
            return _vector(windows[0], firsts[0], options)
        case Task.MASKED_LM:
            return _masks(tokenizer, windows[0], firsts[0], options)
        case Task.MULTIPLE_CHOICE:
            return _choices(windows[0], firsts[0])
        case Task.GLINER:
            assert shape.gliner is not None
            return span_prediction(shape.gliner, windows, firsts, options)


def _masks(
    tokenizer: Tokenizer, example: Example, logits: Doubles, options: PredictionOptions
) -> Prediction:
    (row,) = example.rows
    masks = []
    for index, token in enumerate(row.input_ids):
        if token == tokenizer.mask_token_id:
            scores = softmax(logits[index])
            best = np.argsort(-scores, kind="stable")[: options.top_k or FILLS].tolist()
            tokens = (tokenizer.decode([i], skip_special_tokens=False) for i in best)
            masks.append(tuple(map(Fill, tokens, scores[best].tolist())))
    return MaskPrediction(example.text, pair_of(example), tuple(masks), **amount_read([example]))


def _choices(example: Example, logits: Doubles) -> Prediction:
    scores = softmax(logits)
    labels = tuple(map(Label, example.second, scores.tolist()))
    return ChoicePrediction(example.text, labels, int(scores.argmax()), **amount_read([example]))


def _vector(example: Example, states: Doubles, options: PredictionOptions) -> Prediction:
    (row,) = example.rows
    vector = states[: len(row)].mean(axis=0) if options.pooling == "mean" else states[0]
    if options.normalize:
        vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
    size, values, read = len(row), tuple(vector.tolist()), amount_read([example])
    return VectorPrediction(example.text, pair_of(example), size, options.pooling, values, **read)
