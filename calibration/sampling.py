"""A fixed number of rows out of a stream, each row as likely as any other, without chance.

The priority of a row is a hash of its number in the stream, and the rows of least priority stay.
So tensors that are observed together keep the rows of the same tokens, and the division of the
stream into calls changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class RowSampler:
    """Keeps up to `size` rows `(C,)`.

    Args:
        size: rows to keep; 0 keeps none.
    """

    def __init__(self, size: int) -> None:
        if size < 0:
            raise ValueError(f"sample of {size} rows")
        self._size = size
        self._seen = 0
        self._priorities: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._rows: Floats = np.zeros((0, 0), np.float32)

    def update(self, rows: Floats) -> None:
        """Take `(n, C)` values; C is the same in every call."""
        priorities = _hash(self._seen + np.arange(len(rows), dtype=np.uint64))
        self._seen += len(rows)
        self._take(priorities, rows)

    def merge(self, other: RowSampler) -> None:
        """Take the sample of another stream."""
        self._seen += other._seen
        self._take(other._priorities, other._rows)

    def _take(self, priorities: NDArray[np.uint64], rows: Floats) -> None:
        if self._size == 0 or len(rows) == 0:
            return
        if len(self._rows) == self._size:
            better = priorities < self._priorities[-1]
            priorities, rows = priorities[better], rows[better]
        if len(self._rows):
            priorities = np.concatenate([self._priorities, priorities])
            rows = np.concatenate([self._rows, rows])
        kept = np.argsort(priorities, kind="stable")[: self._size]
        self._priorities, self._rows = priorities[kept], rows[kept]

    def state(self) -> dict[str, NDArray[Any]]:
        """All there is to know, as arrays."""
        return {
            "sample_seen": np.array(self._seen),
            "sample_priorities": self._priorities,
            "sample_rows": self._rows,
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `state` returned; KeyError or ValueError when it is another form."""
        priorities, rows = state["sample_priorities"], state["sample_rows"]
        if rows.ndim != 2 or len(rows) != len(priorities) or len(rows) > self._size:
            raise ValueError("a sample of another form")
        self._seen = int(state["sample_seen"])
        self._priorities, self._rows = priorities.astype(np.uint64), rows.astype(np.float32)

    def result(self) -> Floats:
        """The rows kept, `(n, C)`, in no order that means anything."""
        return self._rows


def _hash(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of SplitMix64 (Steele, Lea, Flood, 2014) at these counters."""
    z = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
