"""Statistics of a stream of rows against numpy over all rows."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from calibration.calibration_error import CalibrationError
from calibration.collectors import RowSampler, StatisticsCollector, TensorStatistics
from calibration.methods import METHODS
from calibration.thresholds import threshold_of

Floats = NDArray[np.float32]


def stream(rows: int = 1777, channels: int = 53, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    spread = np.exp(rng.standard_normal(channels) * 2)
    values = rng.standard_normal((rows, channels)) * spread + rng.standard_normal(channels)
    values[:, 7] = 0
    return values.astype(np.float32)


def collected(chunks: list[Floats], sample_rows: int = 0) -> StatisticsCollector:
    collector = StatisticsCollector("x", sample_rows)
    for chunk in chunks:
        collector.update(chunk)
    return collector


def cut(values: Floats, seed: int = 0) -> list[Floats]:
    cuts = np.sort(np.random.default_rng(seed).integers(0, len(values) + 1, 11))
    return np.split(values, cuts)


def require_same(first: TensorStatistics, second: TensorStatistics) -> None:
    assert first.rows == second.rows
    np.testing.assert_array_equal(first.channel_min, second.channel_min)
    np.testing.assert_array_equal(first.channel_max, second.channel_max)
    np.testing.assert_array_equal(first.histogram.counts, second.histogram.counts)
    np.testing.assert_array_equal(first.sample, second.sample)
    np.testing.assert_allclose(first.channel_mean, second.channel_mean, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(first.channel_mean_square, second.channel_mean_square, rtol=1e-12)


def test_figures_are_those_of_numpy() -> None:
    values = stream()
    exact = values.astype(np.float64)
    found = collected(cut(values)).result()
    assert found.rows == len(values)
    assert found.count == values.size
    assert (found.minimum, found.maximum) == (values.min(), values.max())
    np.testing.assert_array_equal(found.channel_amax, np.abs(values).max(axis=0))
    np.testing.assert_array_equal(found.channel_min, values.min(axis=0))
    assert found.channel_amax.dtype == np.float32
    np.testing.assert_allclose(found.channel_mean, exact.mean(axis=0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found.channel_mean_square, (exact**2).mean(axis=0), rtol=1e-12)
    assert found.histogram.total == values.size
    assert not found.all_zero
    for method in METHODS:
        amax = found.threshold(method)
        assert amax == threshold_of(values, method)
        assert found.histogram.share_above(amax) == pytest.approx(
            (np.abs(values) > amax).mean(), abs=1e-3
        )


@pytest.mark.parametrize("channels", [1, 3, 70_000])
def test_any_number_of_channels(channels: int) -> None:
    values = np.random.default_rng(0).standard_normal((5, channels)).astype(np.float32)
    found = collected([values[:2], values[2:]]).result()
    np.testing.assert_allclose(found.channel_mean, values.mean(axis=0), rtol=1e-5, atol=1e-6)
    assert found.histogram.total == 5 * channels


def test_chunks_change_nothing() -> None:
    values = stream()
    whole = collected([values], 40).result()
    for seed in range(5):
        require_same(collected(cut(values, seed), 40).result(), whole)


def test_the_state_is_all_there_is() -> None:
    values = stream()
    collector = collected([values[:900]], 25)
    restored = StatisticsCollector("x", 25)
    restored.restore(collector.state())
    collector.update(values[:5] * 100)  # what was restored is no view of it
    restored.update(values[900:])
    require_same(restored.result(), collected([values], 25).result())


def test_a_foreign_state_is_refused() -> None:
    state = collected([stream()], 30).state()
    with pytest.raises(KeyError):
        StatisticsCollector("x").restore({"rows": np.array(1)})
    with pytest.raises(ValueError, match="another form"):
        StatisticsCollector("x", 30).restore({**state, "sums": np.zeros((2, 3))})
    with pytest.raises(ValueError, match="another form"):
        StatisticsCollector("x", 29).restore(state)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [(0, 0), (31, 17), (99, 52)])
def test_what_is_not_finite_names_the_tensor_and_changes_nothing(
    bad: float, where: tuple[int, int]
) -> None:
    values = stream(100)
    collector = collected([values], 10)
    broken = values.copy()
    broken[where] = bad
    collector.name = "layer.3"
    with pytest.raises(CalibrationError, match=r"layer\.3: NaN or infinite"):
        collector.update(broken)
    require_same(collector.result(), collected([values], 10).result())


def test_another_number_of_channels_is_a_defect() -> None:
    collector = collected([stream(10, 53)])
    with pytest.raises(ValueError, match="52 channels after 53"):
        collector.update(stream(10, 52))
    require_same(collector.result(), collected([stream(10, 53)]).result())


def test_no_rows() -> None:
    collector = collected([np.zeros((0, 4), np.float32)])
    with pytest.raises(CalibrationError, match="no token was observed"):
        collector.result()


def test_zeros() -> None:
    found = collected([np.zeros((9, 4), np.float32)]).result()
    assert found.all_zero
    assert found.threshold("entropy") > 0
    assert found.histogram.share_above(found.threshold("mse")) == 0


def sampled(chunks: list[Floats], size: int) -> Floats:
    sampler = RowSampler(size)
    for chunk in chunks:
        sampler.update(chunk)
    return sampler.rows


@pytest.mark.parametrize("size", [0, 1, 7, 100, 5000])
def test_a_sample_is_so_many_different_rows(size: int) -> None:
    rows = np.arange(3000, dtype=np.float32).reshape(1000, 3)
    kept = sampled(cut(rows), size)
    assert len(kept) == min(size, 1000)
    if size:
        numbers = kept[:, 0] / 3
        np.testing.assert_array_equal(kept, rows[numbers.astype(int)])
        assert len(set(numbers)) == len(kept)
        np.testing.assert_array_equal(kept, sampled([rows], size))


def test_a_sample_is_spread_evenly() -> None:
    rows = np.arange(20_000, dtype=np.float32)[:, None]
    for kept in (sampled(cut(rows), 2000), sampled(cut(rows), 2000)):
        counts, _ = np.histogram(kept, 20, (0, 20_000))
        # Chi-square with 19 degrees of freedom exceeds 43.8 once in a thousand.
        assert float(((counts - 100) ** 2 / 100).sum()) < 43.8


def test_a_negative_sample_is_a_defect() -> None:
    with pytest.raises(ValueError, match="sample of -1"):
        RowSampler(-1)
