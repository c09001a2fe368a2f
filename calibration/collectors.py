"""Statistics of one tensor over a stream of batches: in bounded memory, resumable.

A collector takes rows `(n, C)`: `n` tokens that are not padding, `C` channels. `n` may differ from
call to call. How the rows are divided into calls changes no result, except for the rounding of the
means; nor does their order, except for the sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.calibration_error import CalibrationError
from calibration.histogram import CHUNK, Floats, Histogram, HistogramBuilder
from calibration.methods import PERCENTILE, Method
from calibration.thresholds import threshold


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """What every threshold method and the passes after it need to know of a tensor.

    Attributes:
        rows: tokens seen; padding does not count.
        channel_min, channel_max: (C,) float32.
        channel_mean, channel_mean_square: (C,) float64, the means of x and x^2.
        histogram: of |x| over all channels.
        sample: (n, C) float32, as many rows as were asked for or there are, chosen evenly. Row k
            is the same token in all tensors that were observed together with the same shape.
    """

    rows: int
    channel_min: Floats
    channel_max: Floats
    channel_mean: NDArray[np.float64]
    channel_mean_square: NDArray[np.float64]
    histogram: Histogram
    sample: Floats

    @property
    def count(self) -> int:
        """Number of values seen."""
        return self.rows * self.channel_max.size

    @property
    def minimum(self) -> float:
        return float(self.channel_min.min())

    @property
    def maximum(self) -> float:
        return float(self.channel_max.max())

    @property
    def channel_amax(self) -> Floats:
        """(C,) float32, largest |x| per channel."""
        return np.maximum(np.abs(self.channel_min), np.abs(self.channel_max))

    @property
    def all_zero(self) -> bool:
        return self.histogram.largest == 0

    def threshold(self, method: Method, *, percentile: float = PERCENTILE) -> float:
        """`amax`, positive and finite, with the errors of `calibration.thresholds.threshold`."""
        return threshold(self.histogram, method, percentile=percentile)


class StatisticsCollector:
    """Collects `TensorStatistics` of `name`, with up to `sample_rows` rows as they are."""

    def __init__(self, name: str, sample_rows: int = 0) -> None:
        self.name, self._rows = name, 0
        self._min: Floats = np.zeros(0, np.float32)
        self._max: Floats = np.zeros(0, np.float32)
        self._sums: NDArray[np.float64] = np.zeros((2, 0))  # of x and of x^2 per channel
        self._histogram = HistogramBuilder()
        self._sampler = RowSampler(sample_rows)

    def update(self, rows: Floats) -> None:
        """Take `(n, C)` values; `n` may be 0.

        Raises:
            CalibrationError: a value is NaN or infinite; nothing of `rows` is kept.
            ValueError: another number of channels than before; nothing of `rows` is kept.
        """
        if len(rows) == 0:
            return
        low, high = rows.min(axis=0), rows.max(axis=0)
        # Both are NaN where any value of the column is.
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise CalibrationError(
                f"{self.name}: NaN or infinite values in the fp32 model on the calibration text; "
                "such a checkpoint cannot be calibrated"
            )
        if self._rows and low.shape != self._min.shape:
            raise ValueError(f"{self.name}: {low.size} channels after {self._min.size}")
        sums = np.zeros((2, rows.shape[1]))
        size = max(1, CHUNK // max(1, rows.shape[1]))
        for start in range(0, len(rows), size):
            exact = rows[start : start + size].astype(np.float64)
            sums[0] += exact.sum(axis=0)
            sums[1] += np.einsum("nc,nc->c", exact, exact)
        if self._rows:
            low, high = np.minimum(self._min, low), np.maximum(self._max, high)
            sums += self._sums
        self._min, self._max, self._sums = low, high, sums
        self._rows += len(rows)
        self._histogram.update(rows)
        self._sampler.update(rows)

    def state(self) -> dict[str, NDArray[Any]]:
        """All that was collected, as arrays."""
        figures = {"min": self._min, "max": self._max, "sums": self._sums}
        parts = self._histogram.state() | self._sampler.state()
        return {"rows": np.array(self._rows), **figures, **parts}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `state` returned; KeyError or ValueError when it is another form."""
        rows, low, high, sums = int(state["rows"]), state["min"], state["max"], state["sums"]
        if rows < 0 or low.ndim != 1 or low.shape != high.shape or sums.shape != (2, low.size):
            raise ValueError(f"{self.name}: statistics of another form")
        self._histogram.restore(state)
        self._sampler.restore(state)
        self._rows, self._min, self._max, self._sums = rows, low, high, sums

    def result(self) -> TensorStatistics:
        """The statistics so far; a CalibrationError says that no row came."""
        if self._rows == 0:
            raise CalibrationError(f"{self.name}: no token was observed; give calibration text")
        mean, mean_square = self._sums / self._rows
        histogram, sample = self._histogram.result(), self._sampler.rows
        return TensorStatistics(
            self._rows, self._min, self._max, mean, mean_square, histogram, sample
        )


class RowSampler:
    """Keeps up to `size` rows `(C,)` of a stream, each as likely as any other, without chance.

    The priority of a row is a hash of its number in the stream, and the rows of least priority
    stay. So tensors that are observed together keep the rows of the same tokens, and the division
    of the stream into calls changes nothing. `rows` are those kept, `(n, C)`, in no order.
    """

    def __init__(self, size: int) -> None:
        if size < 0:
            raise ValueError(f"sample of {size} rows")
        self._size, self._seen = size, 0
        self._priorities: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self.rows: Floats = np.zeros((0, 0), np.float32)

    def update(self, rows: Floats) -> None:
        """Take `(n, C)` values; C is the same in every call."""
        priorities = _hash(self._seen + np.arange(len(rows), dtype=np.uint64))
        self._seen += len(rows)
        if self._size == 0 or len(rows) == 0:
            return
        if len(self.rows) == self._size:
            better = priorities < self._priorities[-1]
            priorities, rows = priorities[better], rows[better]
        if len(self.rows):
            priorities = np.concatenate([self._priorities, priorities])
            rows = np.concatenate([self.rows, rows])
        kept = np.argsort(priorities, kind="stable")[: self._size]
        self._priorities, self.rows = priorities[kept], rows[kept]

    def state(self) -> dict[str, NDArray[Any]]:
        """All there is to know, as arrays."""
        priorities, rows = self._priorities, self.rows
        seen = np.array(self._seen)
        return {"sample_seen": seen, "sample_priorities": priorities, "sample_rows": rows}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `state` returned; KeyError or ValueError when it is another form."""
        priorities, rows = state["sample_priorities"], state["sample_rows"]
        if rows.ndim != 2 or len(rows) != len(priorities) or len(rows) > self._size:
            raise ValueError("a sample of another form")
        self._seen = int(state["sample_seen"])
        self._priorities, self.rows = priorities.astype(np.uint64), rows.astype(np.float32)


def _hash(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of SplitMix64 (Steele, Lea, Flood, 2014) at these counters."""
    z = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
