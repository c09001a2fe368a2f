"""Weight clipping: thresholds below a column's largest weight, where that lowers the error.

A smaller threshold means smaller steps for all weights of the column and a larger error for the few
beyond it. Errors are weighted with the mean square of the input channel that a weight multiplies,
so what is minimized is the expected squared error of the output (of uncorrelated channels).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calibration.formats import Floats, NumberFormat, round_trip, scale_of

RATIOS = tuple(float(ratio) for ratio in np.round(np.arange(1.0, 0.69, -0.03), 2))
"""Thresholds tried, as shares of the largest weight."""

_BLOCK_VALUES = 1 << 21  # weights at a time


@dataclass(frozen=True)
class ClippedWeight:
    """Thresholds `(N,)` of a weight's columns, and how many are below the largest weight."""

    thresholds: Floats
    clipped: int


def clip_weight(weight: Floats, mean_square: Floats, number: NumberFormat) -> ClippedWeight:
    """The thresholds of a weight `(K, N)` with the least squared error.

    `mean_square` `(K,)` of the site's input channels are the weights of the error. fp8 is left
    alone: its steps are relative to each value, so clipping only loses.
    """
    largest = np.abs(weight).max(axis=0)
    if number is NumberFormat.FP8:
        return ClippedWeight(largest, 0)
    importance = mean_square.astype(np.float32)
    if not importance.any():
        importance = np.ones_like(importance)
    thresholds = largest.copy()
    step = max(1, _BLOCK_VALUES // len(weight))
    for start in range(0, weight.shape[1], step):
        block = slice(start, start + step)
        columns, limit = np.ascontiguousarray(weight[:, block]), largest[block]
        best = _errors(columns, importance, limit, number)
        for ratio in RATIOS:
            errors = _errors(columns, importance, limit * np.float32(ratio), number)
            thresholds[block] = np.where(errors < best, limit * ratio, thresholds[block])
            best = np.minimum(errors, best)
    return ClippedWeight(thresholds, int((thresholds < largest).sum()))


def _errors(columns: Floats, importance: Floats, limit: Floats, number: NumberFormat) -> Floats:
    """`(N,)`: weighted squared error of each column."""
    error = round_trip(columns, scale_of(limit, number), number)
    error -= columns
    np.square(error, out=error)
    errors: Floats = importance @ error
    return errors
