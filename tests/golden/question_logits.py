"""Logits of a question answering model that is none: a formula of ids and places, exact in fp32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def question_logits(ids: NDArray[np.int64], factor: int) -> NDArray[np.float32]:
    """Values of -4 to 4 in steps of 1/8192 for ids `(..., S)`; they differ by the place."""
    mixed = (ids * 7919 + np.arange(ids.shape[-1]) * 104729) * factor
    return ((mixed % 65521) / 8192 - 4).astype(np.float32)
