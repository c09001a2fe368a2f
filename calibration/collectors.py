"""Statistics of one tensor over a stream of batches: in bounded memory, mergeable, resumable.

A collector takes rows `(n, C)`: `n` tokens that are not padding, `C` channels. `n` may differ from
call to call. The order of the rows and their division into calls change no result, except for the
rounding of the means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from calibration.errors import CalibrationError
from calibration.histogram import Histogram, HistogramBuilder
from calibration.thresholds import INT8_MAX, PERCENTILE, Method, threshold

Floats = NDArray[np.float32]
State = Mapping[str, NDArray[Any]]
T_co = TypeVar("T_co", covariant=True)

_CHUNK = 1 << 16  # values at a time: they stay in the processor's cache


@dataclass(frozen=True, eq=False)
class TensorRange:
    """What a tensor's values span.

    Attributes:
        rows: tokens seen; padding does not count.
        channel_min: (C,) float32, smallest value per channel.
        channel_max: (C,) float32, largest value per channel.
    """

    rows: int
    channel_min: Floats
    channel_max: Floats

    @property
    def count(self) -> int:
        """Number of values seen."""
        return self.rows * self.channel_max.size

    @property
    def minimum(self) -> float:
        """Smallest value."""
        return float(self.channel_min.min())

    @property
    def maximum(self) -> float:
        """Largest value."""
        return float(self.channel_max.max())

    @property
    def channel_amax(self) -> Floats:
        """(C,) float32, largest |x| per channel."""
        return np.maximum(np.abs(self.channel_min), np.abs(self.channel_max))

    @property
    def absmax(self) -> float:
        """Largest |x|."""
        return max(abs(self.minimum), abs(self.maximum))

    @property
    def all_zero(self) -> bool:
        """Whether no value differed from zero."""
        return self.absmax == 0


@dataclass(frozen=True, eq=False)
class TensorStatistics(TensorRange):
    """The span, and what every threshold method and the later passes need.

    Attributes:
        channel_mean: (C,) float64.
        channel_mean_square: (C,) float64, the mean of x^2.
        histogram: of |x| over all channels.
    """

    channel_mean: NDArray[np.float64]
    channel_mean_square: NDArray[np.float64]
    histogram: Histogram

    def threshold(
        self, method: Method, *, percentile: float = PERCENTILE, largest_code: int = INT8_MAX
    ) -> float:
        """`amax` by `method`: positive and finite. See `calibration.thresholds.threshold`.

        Raises:
            CalibrationError: an unknown method, or a percentile out of range.
        """
        return threshold(self.histogram, method, percentile=percentile, largest_code=largest_code)

    def saturation(self, amax: float) -> float:
        """Share of the values that a threshold of `amax` clips, 0 to 1."""
        return self.histogram.share_above(amax)


class Collector(Protocol[T_co]):
    """What `observe` feeds with the rows of one tensor."""

    def update(self, rows: Floats) -> None:
        """Take `(n, C)` values; `n` may be 0. CalibrationError when they cannot be used."""

    def state(self) -> dict[str, NDArray[Any]]:
        """All that was collected, as arrays."""

    def restore(self, state: State) -> None:
        """Take over what `state` returned; KeyError or ValueError when it is another form."""

    def result(self) -> T_co:
        """The statistics; CalibrationError when no row came."""


class RangeCollector:
    """Collects a `TensorRange`.

    Args:
        name: of the tensor, for messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._rows = 0
        self._min: Floats = np.zeros(0, np.float32)
        self._max: Floats = np.zeros(0, np.float32)

    def update(self, rows: Floats) -> None:
        """Take `(n, C)` values.

        Raises:
            CalibrationError: a value is NaN or infinite; nothing of `rows` is kept.
            ValueError: another number of channels than before.
        """
        if len(rows) == 0:
            return
        low, high = rows.min(axis=0), rows.max(axis=0)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise CalibrationError(
                f"{self.name}: NaN or infinite values in the fp32 model on the calibration text; "
                "such a checkpoint cannot be calibrated"
            )
        self._take(len(rows), low, high)

    def merge(self, other: RangeCollector) -> None:
        """Add what `other` collected; ValueError for another number of channels."""
        if other._rows:
            self._take(other._rows, other._min, other._max)

    def _take(self, rows: int, low: Floats, high: Floats) -> None:
        if self._rows == 0:
            self._min, self._max = low.copy(), high.copy()
        elif low.shape != self._min.shape:
            raise ValueError(f"{self.name}: {low.size} channels after {self._min.size}")
        else:
            self._min, self._max = np.minimum(self._min, low), np.maximum(self._max, high)
        self._rows += rows

    def state(self) -> dict[str, NDArray[Any]]:
        """All that was collected, as arrays."""
        return {"rows": np.array(self._rows), "min": self._min.copy(), "max": self._max.copy()}

    def restore(self, state: State) -> None:
        """Take over what `state` returned; KeyError or ValueError when it is another form."""
        rows, low, high = int(state["rows"]), state["min"], state["max"]
        if rows < 0 or low.ndim != 1 or low.shape != high.shape:
            raise ValueError(f"{self.name}: not the state of a range")
        self._rows, self._min, self._max = rows, low, high

    def result(self) -> TensorRange:
        """The statistics so far.

        Raises:
            CalibrationError: no row came.
        """
        _require_rows(self.name, self._rows)
        return TensorRange(self._rows, self._min, self._max)


class StatisticsCollector:
    """Collects `TensorStatistics`.

    Args:
        name: of the tensor, for messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._range = RangeCollector(name)
        self._histogram = HistogramBuilder()
        self._sums: NDArray[np.float64] = np.zeros((2, 0))  # of x and of x^2 per channel

    def update(self, rows: Floats) -> None:
        """Take `(n, C)` values.

        Raises:
            CalibrationError: a value is NaN or infinite; nothing of `rows` is kept.
            ValueError: another number of channels than before.
        """
        if len(rows) == 0:
            return
        self._range.update(rows)  # first: it refuses what the others could not take
        self._histogram.update(rows)
        sums = np.zeros((2, rows.shape[1]))
        for chunk in _chunks(rows):
            exact = chunk.astype(np.float64)
            sums[0] += exact.sum(axis=0)
            sums[1] += np.einsum("nc,nc->c", exact, exact)
        self._sums = sums + self._sums if self._sums.size else sums

    def merge(self, other: StatisticsCollector) -> None:
        """Add what `other` collected; ValueError for another number of channels."""
        self._range.merge(other._range)
        self._histogram.merge(other._histogram)
        if other._sums.size:
            self._sums = other._sums + self._sums if self._sums.size else other._sums.copy()

    def state(self) -> dict[str, NDArray[Any]]:
        """All that was collected, as arrays."""
        return {**self._range.state(), **self._histogram.state(), "sums": self._sums.copy()}

    def restore(self, state: State) -> None:
        """Take over what `state` returned; KeyError or ValueError when it is another form."""
        sums = state["sums"]
        if sums.shape != (2, state["min"].size):
            raise ValueError(f"{self.name}: not the state of statistics")
        self._range.restore(state)
        self._histogram.restore(state)
        self._sums = sums.astype(np.float64)

    def result(self) -> TensorStatistics:
        """The statistics so far.

        Raises:
            CalibrationError: no row came.
        """
        span = self._range.result()
        mean, mean_square = self._sums / span.rows
        return TensorStatistics(
            span.rows,
            span.channel_min,
            span.channel_max,
            mean,
            mean_square,
            self._histogram.result(),
        )


def _chunks(rows: Floats) -> Iterator[Floats]:
    size = max(1, _CHUNK // max(1, rows.shape[1]))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _require_rows(name: str, rows: int) -> None:
    if rows == 0:
        raise CalibrationError(f"{name}: no token was observed; give calibration text")
