"""Inputs that ranges are measured on: texts, and every kind of shape and padding."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from calibration.texts import TextItem
from exporter.inputs.cases import CaseMaker, ParityCase
from exporter.inputs.data_sets import DEFAULT_TEXTS, examples_of
from exporter.inputs.encode import TextEncoder
from exporter.model.model_shape import ModelShape

RANGE_TEXTS = 128
"""Texts that ranges are measured on, beside the odd shapes of a parity check."""


def range_cases(
    shape: ModelShape, encoder: TextEncoder | None, texts: Sequence[TextItem], longest: int
) -> tuple[ParityCase, ...]:
    """Inputs to measure ranges on: the first texts, and every kind of shape and padding.

    `longest` is the largest length in tokens. Without a tokenizer the ids are random.
    """
    count = min(RANGE_TEXTS, len(texts))
    if encoder is None:
        warnings.warn(
            "no tokenizer: ranges are measured on random token ids, which may reach less far than "
            "texts do",
            stacklevel=2,
        )
        count = DEFAULT_TEXTS
    maker = CaseMaker(shape, examples_of(shape, encoder, texts, longest), longest)
    return (*maker.shapes().cases, *maker.texts("texts", count).cases)
