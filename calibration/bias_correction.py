"""Bias correction: the mean error that quantization leaves in a site's output, taken off its bias.

Rounding the weights once and for all shifts the mean of each output, and so do activations that
saturate on one side (M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction", ICCV 2019, section 4.2; here with measured means in the place of assumed ones).
"""

from __future__ import annotations

import numpy as np

from calibration.formats import Floats, NumberFormat, round_trip, scale_of


def rounding_error(sample: Floats, threshold: float, number: NumberFormat) -> Floats:
    """`(K,)`: mean over a sample `(rows, K)` of what quantization adds to each channel."""
    rounded = round_trip(sample, scale_of(threshold, number), number)
    return np.asarray((rounded - sample).mean(axis=0, dtype=np.float64), np.float32)


def bias_shift(
    weight: Floats, thresholds: Floats, mean: Floats, mean_error: Floats, number: NumberFormat
) -> Floats:
    """`(N,)`: what to add to the bias, so that the output has the mean of the float one.

    Args:
        weight: `(K, N)`, as smoothing left it.
        thresholds: `(N,)`, of its columns.
        mean: `(K,)`, mean of the input over the calibration text.
        mean_error: `(K,)`, see `rounding_error`.
        number: the format of the weight.
    """
    stored = round_trip(weight, scale_of(thresholds, number), number)
    # E[x] W - E[x + e] (W + D) with W + D stored: what was, less what is.
    shift: Floats = mean @ (weight - stored) - mean_error @ stored
    return shift
