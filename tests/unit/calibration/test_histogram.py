"""The streaming histogram against numpy's over the whole data."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from calibration.histogram import BINS, BINS_PER_OCTAVE, OCTAVES, Histogram, HistogramBuilder

Floats = NDArray[np.float32]


def distributions() -> dict[str, Floats]:
    rng = np.random.default_rng(7)
    outlier = rng.standard_normal((500, 37))
    outlier[:, 11] *= 300
    data = {
        "gaussian": rng.standard_normal(30_001),
        "heavy": rng.standard_t(1.5, 30_001),
        "outlier channel": outlier,
        "one outlier": np.append(rng.standard_normal(20_000), 5000.0),
        "skewed": np.maximum(rng.standard_normal(20_000), -0.17),
        "constant": np.full(999, -0.3),
        "one value": np.array([2.5]),
        "powers of two": 2.0 ** np.arange(-40, 41),
        "tiny": rng.standard_normal(5000) * 1e-42,
        "huge": rng.uniform(-3.4e38, 3.4e38, 5000),
        "zeros and some": np.concatenate([np.zeros(10_000), rng.standard_normal(100)]),
    }
    return {name: values.astype(np.float32) for name, values in data.items()}


DATA = distributions()


def histogram_of(*chunks: Floats) -> Histogram:
    builder = HistogramBuilder()
    for chunk in chunks:
        builder.update(chunk)
    return builder.result()


def same(first: Histogram, second: Histogram) -> bool:
    figures = first.top == second.top and first.largest == second.largest
    return figures and np.array_equal(first.counts, second.counts)


@pytest.mark.parametrize("name", DATA)
def test_counts_are_those_of_numpy(name: str) -> None:
    values = DATA[name]
    found = histogram_of(values)
    assert found.total == values.size
    assert found.largest == np.abs(values).max()
    assert found.largest < found.edges[-1]
    assert found.edges[-1] <= 2 * max(found.largest, float(np.finfo(np.float32).tiny))
    expected, _ = np.histogram(np.abs(values).astype(np.float64), found.edges)
    np.testing.assert_array_equal(found.counts, expected)


@pytest.mark.parametrize("name", DATA)
def test_bins_are_narrow_beside_their_values(name: str) -> None:
    edges = histogram_of(DATA[name]).edges
    assert edges.shape == (BINS + 1,)
    assert (np.diff(edges) >= 0).all()
    normal = edges[:-1] >= np.finfo(np.float32).tiny
    assert (np.diff(edges)[normal] <= edges[:-1][normal] / BINS_PER_OCTAVE).all()
    # What counts as small is far below a step of int8.
    assert edges[1] <= edges[-1] * 2.0**-OCTAVES


@pytest.mark.parametrize("name", DATA)
def test_chunks_and_their_order_change_nothing(name: str) -> None:
    values = DATA[name].reshape(-1)
    rng = np.random.default_rng(1)
    whole = histogram_of(values)
    for ordered in (np.sort(np.abs(values)), np.sort(-np.abs(values)), rng.permutation(values)):
        cuts = np.sort(rng.integers(0, values.size + 1, 9))
        assert same(histogram_of(*np.split(ordered, cuts)), whole)


def test_zeros() -> None:
    found = histogram_of(np.zeros(50, np.float32), -np.zeros(7, np.float32))
    assert (found.total, found.largest) == (57, 0.0)
    assert histogram_of().total == 0


def test_the_state_is_all_there_is() -> None:
    first, second = DATA["gaussian"][:500], DATA["heavy"]
    builder = HistogramBuilder()
    builder.update(first)
    restored = HistogramBuilder()
    restored.restore(builder.state())
    builder.update(DATA["huge"])  # what was restored is no view of it
    restored.update(second)
    assert same(restored.result(), histogram_of(first, second))
    with pytest.raises(ValueError, match="another form"):
        restored.restore({"counts": np.zeros(5, np.int64), "window": np.zeros(2, np.int64)})


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        histogram_of(np.array([1.0, bad, 2.0], np.float32))


@pytest.mark.parametrize("name", DATA)
def test_the_share_above_a_threshold(name: str) -> None:
    found = histogram_of(DATA[name])
    magnitude = np.abs(DATA[name]).astype(np.float64)
    borders = found.edges[[0, 1, 5000, BINS - 1500, BINS - 1000, BINS - 1]]
    for border in borders[borders < found.largest]:
        expected = (magnitude >= border).mean()
        assert found.share_above(float(border)) == pytest.approx(expected, abs=1e-15)
    middle = (found.edges[BINS - 900] + found.edges[BINS - 899]) / 2
    if middle < found.largest:
        least, most = ((magnitude > found.edges[BINS - k]).mean() for k in (899, 900))
        assert least <= found.share_above(float(middle)) <= most
    assert found.share_above(found.largest) == 0.0
    shares = [found.share_above(found.largest * factor) for factor in np.linspace(0, 1, 50)]
    assert all(later <= earlier for earlier, later in pairwise(shares))
