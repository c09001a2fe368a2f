"""Where symmetric quantization should clip, from a histogram of |x|.

Every method gives `amax`: values beyond it saturate, and a format whose largest number is `n`
(127 for int8) has the scale `amax / n`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calibration.calibration_error import CalibrationError
from calibration.histogram import BINS_PER_OCTAVE, OCTAVES, Floats, Histogram, HistogramBuilder
from calibration.methods import METHODS, PERCENTILE, Method

Doubles = NDArray[np.float64]

INT8_MAX = 127
AMAX_OF_ZEROS = 1.0
"""Any scale represents zeros exactly; this one is finite in every format and clips little."""
SMALLEST_AMAX = float(np.finfo(np.float32).tiny) * 2**8
"""Keeps `amax / 127` a normal float32."""

_LINEAR_BINS = 2 * BINS_PER_OCTAVE  # equal bins up to a power of two: half of them are its octave
_LEVELS = 128  # of |x| in int8, as TensorRT's entropy calibration counts them
_EQUAL_DIVERGENCE = 1e-9  # nats: above the rounding of the sums, below any difference that counts
_MSE_OCTAVES = 12  # thresholds tried: from the largest value down to 2^-12 of it
_MSE_STEPS = 16  # per octave at first, then as many again around the best


def threshold(histogram: Histogram, method: Method, *, percentile: float = PERCENTILE) -> float:
    """`amax` of a tensor, positive and finite, at most the largest |x|; zeros get `AMAX_OF_ZEROS`.

    Args:
        histogram: of |x|.
        method: `minmax`: the largest value. `percentile`: the value that `percentile` % of the
            values do not exceed. `entropy`: the least Kullback-Leibler divergence between the
            distribution and its 128 levels. `mse`: the least mean squared error in int8.
        percentile: for that method, above 0 and at most 100.

    Raises:
        CalibrationError: an unknown method, or a percentile out of range.
        ValueError: the histogram is empty.
    """
    if histogram.total == 0:
        raise ValueError("no value was counted")
    if method not in METHODS:
        raise CalibrationError(f"calibration method {method!r}; choose one of {', '.join(METHODS)}")
    if not 0 < percentile <= 100:
        raise CalibrationError(f"percentile {percentile}; give one above 0 and at most 100")
    if histogram.largest == 0:
        return AMAX_OF_ZEROS
    amax = histogram.largest
    if method == "percentile":
        amax = _percentile(histogram, percentile)
    elif method == "entropy":
        amax = _entropy(histogram)
    elif method == "mse":
        amax = _least_squares(histogram)
    return max(min(amax, histogram.largest), SMALLEST_AMAX)


def threshold_of(values: Floats, method: Method, *, percentile: float = PERCENTILE) -> float:
    """`threshold` of the values of one array of any shape."""
    builder = HistogramBuilder()
    builder.update(values)
    return threshold(builder.result(), method, percentile=percentile)


def _percentile(histogram: Histogram, percentile: float) -> float:
    """Linear within the bin that the rank falls into."""
    counts, edges = histogram.counts, histogram.edges
    rank = percentile / 100 * histogram.total
    reached = np.cumsum(counts)
    index = int(np.searchsorted(reached, rank))
    inside = (rank - (reached[index] - counts[index])) / counts[index]
    return float(edges[index] + inside * (edges[index + 1] - edges[index]))


def _entropy(histogram: Histogram) -> float:
    """Threshold of the least KL divergence over thresholds of 128 equal bins and more.

    The method of TensorRT's int8 calibration (S. Migacz, "8-bit Inference with TensorRT", GTC
    2017): the values beyond a threshold count in the last bin of the reference; the other
    distribution has 128 levels, the mass of each spread evenly over its bins that are not empty.
    The first bin, which holds the zeros, is set to the second: zero is represented exactly.
    """
    counts = linear_counts(histogram)
    counts[0] = counts[1]
    last = int(np.flatnonzero(counts)[-1]) + 1
    ends = np.arange(_LEVELS, last + 1)
    divergence = _divergences(counts, ends)
    # Of equals the one that clips least: few distinct values can give several.
    best = int(np.flatnonzero(divergence <= divergence.min() + _EQUAL_DIVERGENCE)[-1])
    return float(ends[best] * histogram.edges[-1] / _LINEAR_BINS)


def linear_counts(histogram: Histogram) -> Doubles:
    """Counts in 2048 equal bins from 0 to the last edge; exact, since bins nest."""
    linear = np.zeros(_LINEAR_BINS)
    octaves = histogram.counts[1:].reshape(OCTAVES, BINS_PER_OCTAVE)[::-1]
    for depth in range(BINS_PER_OCTAVE.bit_length()):
        bins = BINS_PER_OCTAVE >> depth
        linear[bins : 2 * bins] = octaves[depth].reshape(bins, -1).sum(axis=1)
    linear[0] = histogram.total - linear.sum()  # what is below the smallest bin
    return linear


def _divergences(counts: Doubles, ends: NDArray[np.int64]) -> Doubles:
    """KL divergence for a threshold after each of `ends` bins; infinite where undefined.

    sum p log(p / q) over bins is split into sum p log p, and sum P_g log q_g over the levels g,
    for q is the same in all bins of a level that are not empty: both come from running sums.
    """
    total = counts.sum()
    sums = (np.cumsum(values) for values in (counts, counts > 0, _xlogx(counts)))
    mass, filled, plogp = (np.concatenate([[0.0], values]) for values in sums)
    kept, last = mass[ends], counts[ends - 1]
    tail = total - kept
    p_log_p = plogp[ends] - _xlogx(last) + _xlogx(last + tail)

    borders = np.arange(_LEVELS + 1) * ends[:, None] // _LEVELS
    quantized = np.diff(mass[borders], axis=1)
    bins = np.diff(filled[borders], axis=1)
    # A last bin that holds nothing but the tail is filled in the reference.
    bins[:, -1] += (last == 0) & (tail > 0)
    reference = quantized.copy()
    reference[:, -1] += tail
    with np.errstate(divide="ignore", invalid="ignore"):
        log_q = np.log(quantized / bins)
        p_log_q = np.where(reference > 0, reference * log_q, 0.0).sum(axis=1)
        divergence = (p_log_p - p_log_q) / total + np.log(kept / total)
    return np.where(np.isfinite(divergence), divergence, np.inf)


def _xlogx(x: Doubles) -> Doubles:
    result: Doubles = x * np.log(np.where(x > 0, x, 1.0))
    return result


def _least_squares(histogram: Histogram) -> float:
    """Threshold of the least mean squared error: a coarse search, then a fine one around it."""
    counts, edges, top = histogram.counts, histogram.edges, histogram.largest
    used = np.flatnonzero(counts)
    weights = counts[used] / histogram.total
    centres = (edges[used] + edges[used + 1]) / 2
    centres[-1] = min(centres[-1], top)  # the top bin reaches beyond what was seen

    def best(exponents: Doubles) -> float:
        errors = [squared_error(centres, weights, top * 2.0**e) for e in exponents]
        return float(exponents[int(np.argmin(errors))])

    step = 1 / _MSE_STEPS
    coarse = best(-np.arange(0, _MSE_OCTAVES + step / 2, step))
    fine = coarse + np.linspace(step, -step, 2 * _MSE_STEPS + 1)
    return top * float(2.0 ** best(fine[fine <= 0]))


def squared_error(values: Doubles, weights: Doubles, amax: float) -> float:
    """Weighted squared error of rounding |x| to multiples of `amax / 127`, clipped."""
    scale = amax / INT8_MAX
    codes = np.minimum(np.rint(values / scale), INT8_MAX)
    return float(np.dot(weights, (values - codes * scale) ** 2))
