"""Thresholds from histograms against exact calculations over the whole data."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from calibration.calibration_error import CalibrationError
from calibration.histogram import BINS_PER_OCTAVE, Histogram, HistogramBuilder
from calibration.methods import METHODS, Method
from calibration.thresholds import (
    AMAX_OF_ZEROS,
    linear_counts,
    squared_error,
    threshold,
    threshold_of,
)

Floats = NDArray[np.float32]
LINEAR_BINS = 2 * BINS_PER_OCTAVE


def distributions() -> dict[str, Floats]:
    rng = np.random.default_rng(11)
    outlier = rng.standard_normal((600, 41))
    outlier[:, 5] *= 60
    gauss = rng.standard_normal(40_000)
    data = {
        "gaussian": gauss,
        "small gaussian": gauss[:300] * 3e-5,
        "heavy": rng.standard_t(3, 40_000),
        "very heavy": rng.standard_cauchy(40_000),
        "outlier channel": outlier,
        "one outlier": np.append(gauss, -900.0),
        "skewed": np.maximum(2 * gauss, -0.17),
        "many zeros": np.where(gauss > 1, gauss, 0.0),
        "uniform": rng.uniform(-7, 7, 40_000),
        "two values": np.repeat([0.25, -3.0], [5000, 50]),
        "constant": np.full(1000, -0.3),
        "one value": np.array([1e-20]),
    }
    return {name: values.astype(np.float32) for name, values in data.items()}


DATA = distributions()


def histogram_of(values: Floats) -> Histogram:
    builder = HistogramBuilder()
    builder.update(values)
    return builder.result()


@pytest.mark.parametrize("name", DATA)
def test_minmax_is_the_largest_magnitude(name: str) -> None:
    assert threshold(histogram_of(DATA[name]), "minmax") == np.abs(DATA[name]).max()


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("percentile", [0.001, 50.0, 99.0, 99.9, 99.999, 100.0])
def test_percentile_is_within_a_bin_of_numpys(name: str, percentile: float) -> None:
    magnitude = np.abs(DATA[name]).astype(np.float64)
    expected = np.percentile(magnitude, percentile, method="inverted_cdf")
    if expected == 0:
        return
    histogram = histogram_of(DATA[name])
    found = threshold(histogram, "percentile", percentile=percentile)
    # What is 2^24 times smaller than the largest value shares one bin.
    assert found == pytest.approx(expected, rel=1 / BINS_PER_OCTAVE, abs=histogram.edges[1])


def exact_squared_error(values: Floats, amax: float) -> float:
    scale = amax / 127
    codes = np.clip(np.rint(values.astype(np.float64) / scale), -127, 127)
    return float(np.mean((values - codes * scale) ** 2))


@pytest.mark.parametrize("name", DATA)
def test_mse_has_the_least_error_of_all_thresholds(name: str) -> None:
    values = DATA[name].reshape(-1)
    found = threshold(histogram_of(values), "mse")
    largest = float(np.abs(values).max())
    assert 0 < found <= largest
    tried = largest * 2.0 ** -np.linspace(0, 11, 331)
    least = min(exact_squared_error(values, amax) for amax in tried)
    # Few distinct values can be hit exactly by one threshold in a thousand: such an optimum says
    # nothing, so the error is also held against the step's own, scale^2 / 12.
    step = largest / 127
    assert exact_squared_error(values, found) <= 1.01 * least + 2e-3 * step**2 / 12


def test_the_error_of_a_histogram_is_that_of_the_values() -> None:
    for name in ("gaussian", "heavy", "outlier channel", "skewed"):
        values, histogram = DATA[name], histogram_of(DATA[name])
        centres = (histogram.edges[1:] + histogram.edges[:-1]) / 2
        weights = histogram.counts / histogram.total
        for share in (1.0, 0.5, 0.11, 0.013):
            amax = share * histogram.largest
            expected = exact_squared_error(values, amax)
            assert squared_error(centres, weights, amax) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("name", DATA)
def test_linear_counts_are_those_of_numpy(name: str) -> None:
    histogram = histogram_of(DATA[name])
    magnitude = np.abs(DATA[name]).astype(np.float64)
    expected, _ = np.histogram(magnitude, LINEAR_BINS, (0, histogram.edges[-1]))
    np.testing.assert_array_equal(linear_counts(histogram), expected)


def naive_divergence(counts: NDArray[np.float64], end: int) -> float:
    """KL divergence of the clipped distribution from its 128 levels, bin by bin."""
    reference = counts[:end].copy()
    reference[-1] += counts[end:].sum()
    quantized = np.zeros(end)
    borders = [level * end // 128 for level in range(129)]
    for start, stop in pairwise(borders):
        filled = reference[start:stop] > 0
        if filled.any():
            quantized[start:stop][filled] = counts[start:stop].sum() / filled.sum()
    if quantized.sum() == 0:
        return np.inf
    p, q = reference / reference.sum(), quantized / quantized.sum()
    if (q[p > 0] == 0).any():
        return np.inf
    return float(np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0])))


@pytest.mark.parametrize("name", DATA)
def test_entropy_is_the_least_divergence_over_the_whole_data(name: str) -> None:
    histogram = histogram_of(DATA[name])
    magnitude = np.abs(DATA[name]).astype(np.float64)
    counts, edges = np.histogram(magnitude, LINEAR_BINS, (0, histogram.edges[-1]))
    counts = counts.astype(np.float64)
    counts[0] = counts[1]
    ends = range(128, int(np.flatnonzero(counts)[-1]) + 2)
    divergences = np.array([naive_divergence(counts, end) for end in ends])
    found = threshold(histogram, "entropy")
    least = np.flatnonzero(divergences <= divergences.min() + 1e-9)
    expected = min(edges[ends[int(least[-1])]], magnitude.max())
    assert found == pytest.approx(expected, rel=1e-12)


def test_entropy_clips_no_more_than_it_must() -> None:
    # One value on its own diverges as little as both: the larger must not be lost.
    assert threshold(histogram_of(DATA["two values"]), "entropy") == 3.0


def test_entropy_clips_rare_outliers_and_keeps_common_ones() -> None:
    gauss = DATA["gaussian"]
    rare = np.append(gauss, np.float32(30.0))
    assert threshold(histogram_of(rare), "entropy") < 6
    common = np.concatenate([gauss, np.full(8000, 30.0, np.float32)])
    assert threshold(histogram_of(common), "entropy") > 29


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", DATA)
def test_thresholds_scale_with_the_values(name: str, method: Method) -> None:
    if name == "one value":
        return
    once = threshold(histogram_of(DATA[name]), method)
    # A power of two shifts the window and nothing else.
    shifted = threshold(histogram_of(DATA[name] * np.float32(2.0**-9)), method)
    assert shifted == pytest.approx(once * 2.0**-9, rel=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [1e-45, -1e-38, 3.4e38, 1.0])
def test_thresholds_of_extreme_values_can_be_divided_by(method: Method, value: float) -> None:
    amax = threshold(histogram_of(np.full(500, value, np.float32)), method)
    scale = np.float32(amax / 127)
    assert np.isfinite(scale)
    assert scale >= np.finfo(np.float32).tiny


@pytest.mark.parametrize("method", METHODS)
def test_zeros_have_a_threshold(method: Method) -> None:
    assert threshold(histogram_of(np.zeros(500, np.float32)), method) == AMAX_OF_ZEROS


def test_what_cannot_be_done_is_refused() -> None:
    histogram = histogram_of(DATA["gaussian"])
    with pytest.raises(CalibrationError, match="'median'; choose one of minmax, percentile"):
        threshold(histogram, "median")  # type: ignore[arg-type]
    for percentile in (0.0, -1.0, 100.1, float("nan")):
        with pytest.raises(CalibrationError, match="percentile"):
            threshold(histogram, "percentile", percentile=percentile)
    with pytest.raises(ValueError, match="no value"):
        threshold(HistogramBuilder().result(), "minmax")


def test_the_threshold_of_an_array() -> None:
    for method in METHODS:
        expected = threshold(histogram_of(DATA["heavy"]), method)
        assert threshold_of(DATA["heavy"], method) == expected
