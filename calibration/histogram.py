"""Streaming histogram of |x| with bins of equal relative width, in bounded memory.

The exponent and the leading bits of a float32's mantissa are the index of its bin, see
docs/calibration.md. The window of octaves ends at the largest value's. When a larger value comes,
it moves up, and what leaves it at the lower end is counted as small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

BINS_PER_OCTAVE = 1024
OCTAVES = 24
"""The window reaches down to 2^-24 of its end: 6e-8 of the largest value, far below int8."""
BINS = 1 + OCTAVES * BINS_PER_OCTAVE
"""Bin 0 takes what is below the window."""

_INDEX_SHIFT = 23 - (BINS_PER_OCTAVE.bit_length() - 1)  # float32 has 23 bits of mantissa
_ABSOLUTE = np.int32(0x7FFFFFFF)
_INFINITY_BITS = 0x7F800000
CHUNK = 1 << 16  # values at a time: they stay in the processor's cache


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of |x|.

    Attributes:
        counts: (BINS,) int64.
        top: biased float32 exponent of the window's last octave: that of the largest value.
        largest: largest |x|, float32 exact; 0 where there is no value other than zero.
    """

    counts: NDArray[np.int64]
    top: int
    largest: float

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    @property
    def edges(self) -> NDArray[np.float64]:
        """(BINS + 1,) borders of the bins, from 0 to the power of two above the largest value."""
        index = _first_index(self.top) + np.arange(BINS, dtype=np.int64)
        bits = np.maximum(index, 0) << _INDEX_SHIFT
        edges = bits.astype(np.int32).view(np.float32).astype(np.float64)
        # 2^128, the end of the highest window, is no float32: its bits are those of infinity.
        edges[np.isinf(edges)] = 2.0**128
        return np.concatenate([[0.0], edges])

    def share_above(self, threshold: float) -> float:
        """Share of the values above `threshold`; linear within the bin that it is in."""
        if threshold >= self.largest or self.total == 0:
            return 0.0
        edges = self.edges
        index = int(np.searchsorted(edges, threshold, side="right")) - 1
        inside = (edges[index + 1] - threshold) / (edges[index + 1] - edges[index])
        above = self.counts[index + 1 :].sum() + inside * self.counts[index]
        return float(above / self.total)


class HistogramBuilder:
    """Counts values as they come."""

    def __init__(self) -> None:
        self._counts = np.zeros(BINS, np.int64)
        self._top = 0
        self._largest_bits = 0

    def update(self, values: Floats) -> None:
        """Count the values of an array of any shape; ValueError where one is not finite."""
        bits = np.ascontiguousarray(values, np.float32).reshape(-1).view(np.int32)
        for start in range(0, bits.size, CHUNK):
            chunk = bits[start : start + CHUNK] & _ABSOLUTE
            largest = int(chunk.max())
            if largest >= _INFINITY_BITS:
                raise ValueError("NaN or infinity")
            self._largest_bits = max(self._largest_bits, largest)
            octaves = (largest >> 23) - self._top
            if octaves > 0:  # the window moves up, and its lowest bins are lost in bin 0
                lost = min(octaves * BINS_PER_OCTAVE, BINS - 1)
                small, rest = self._counts[: 1 + lost].sum(), self._counts[1 + lost :]
                self._counts = np.concatenate([[small], rest, np.zeros(lost, np.int64)])
                self._top += octaves
            chunk >>= _INDEX_SHIFT
            chunk -= _first_index(self._top) - 1
            np.maximum(chunk, 0, out=chunk)
            self._counts += np.bincount(chunk, minlength=BINS)

    def state(self) -> dict[str, NDArray[np.int64]]:
        """All there is to know, as arrays."""
        scalars = np.array([self._top, self._largest_bits], np.int64)
        return {"counts": self._counts.copy(), "window": scalars}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `state` returned; KeyError or ValueError when it is another form."""
        counts, window = state["counts"], state["window"]
        if counts.shape != (BINS,) or window.shape != (2,):
            raise ValueError("a histogram of another form")
        self._counts = counts.astype(np.int64)
        self._top, self._largest_bits = int(window[0]), int(window[1])

    def result(self) -> Histogram:
        largest = float(np.int32(self._largest_bits).view(np.float32))
        return Histogram(self._counts.copy(), self._top, largest)


def _first_index(top: int) -> int:
    """Index of the window's first bin among all bins of float32; negative near zero."""
    return (top - OCTAVES + 1) * BINS_PER_OCTAVE
