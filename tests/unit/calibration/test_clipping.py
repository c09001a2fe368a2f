"""Weight clipping against a search by brute force."""

from __future__ import annotations

import numpy as np
import pytest

from calibration import clipping
from calibration.clipping import RATIOS, clip_weight
from calibration.formats import NumberFormat, round_trip, scale_of


def brute_force(weight: np.ndarray, importance: np.ndarray) -> np.ndarray:
    thresholds = []
    for column in weight.T.astype(np.float64):
        best = None
        for ratio in sorted(RATIOS, reverse=True):
            scale = ratio * np.abs(column).max() / 127
            rounded = np.clip(np.rint(column / scale), -127, 127) * scale
            error = (importance * (rounded - column) ** 2).sum()
            if best is None or error < best[0] * (1 - 1e-6):
                best = (error, ratio * np.abs(column).max())
        assert best is not None
        thresholds.append(best[1])
    return np.array(thresholds)


def error_left(weight: np.ndarray, importance: np.ndarray, thresholds: np.ndarray) -> float:
    """Weighted squared error with thresholds, as a share of that without clipping."""

    def error(limits: np.ndarray) -> float:
        rounded = round_trip(weight, scale_of(limits, NumberFormat.INT8), NumberFormat.INT8)
        return float((importance @ np.square(rounded - weight)).sum())

    before = error(np.abs(weight).max(axis=0))
    return error(thresholds) / before if before > 0 else 1.0


def heavy_tailed(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(3, (rows, columns)).astype(np.float32)


@pytest.mark.parametrize("shape", [(63, 5), (1, 3), (200, 1), (384, 31)])
def test_thresholds_are_those_of_the_least_error(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clipping, "_BLOCK_VALUES", 1000)  # several blocks, the last one smaller
    weight = heavy_tailed(*shape)
    importance = np.random.default_rng(1).uniform(0.1, 4.0, shape[0]).astype(np.float32)
    found = clip_weight(weight, importance, NumberFormat.INT8)
    np.testing.assert_allclose(found.thresholds, brute_force(weight, importance), rtol=1e-5)
    assert found.clipped == (found.thresholds < np.abs(weight).max(axis=0)).sum()
    assert 0 < error_left(weight, importance, found.thresholds) <= 1


def test_important_channels_decide() -> None:
    weight = np.random.default_rng(0).normal(0, 1, (512, 1)).astype(np.float32)
    weight[7] = 8.0
    importance = np.ones(512, np.float32)
    assert clip_weight(weight, importance, NumberFormat.INT8).clipped == 0
    importance[7] = 1e-3
    found = clip_weight(weight, importance, NumberFormat.INT8)
    assert found.clipped == 1 and found.thresholds[0] < 6
    assert error_left(weight, importance, found.thresholds) < 0.7


def test_fp8_and_zeros_are_left_alone() -> None:
    weight = heavy_tailed(64, 3)
    found = clip_weight(weight, np.ones(64, np.float32), NumberFormat.FP8)
    np.testing.assert_array_equal(found.thresholds, np.abs(weight).max(axis=0))
    assert found.clipped == 0
    zeros = clip_weight(np.zeros((4, 2), np.float32), np.zeros(4, np.float32), NumberFormat.INT8)
    assert zeros.clipped == 0 and not zeros.thresholds.any()
