"""How the errors of an output are spread: counts by magnitude, and pairs of values, of a sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exporter.metrics.decisions import Doubles, Ints
from exporter.metrics.figures import Floats, Rows, Scale

LOWEST, HIGHEST = -9.0, 1.0
PER_DECADE = 4
SAMPLE = 1 << 14
"""Elements looked at in a batch; a vocabulary's logits have millions."""
POINTS = 40
"""Pairs kept of a batch."""


@dataclass(frozen=True, eq=False)
class Errors:
    """How the errors of an output are spread.

    Attributes:
        edges: `(N + 1,)`, decimal logarithms of |error| / largest reference.
        counts: int64 `(N,)`, of a sample of the elements; smaller and larger ones are in the
            first and last.
        exact: elements of the sample without any error.
        points: `(P, 2)`, reference and candidate of some elements.
    """

    edges: Doubles
    counts: Ints
    exact: int
    points: Doubles


class ErrorSpread:
    """Counts the errors of one output, batch by batch."""

    def __init__(self) -> None:
        size = round((HIGHEST - LOWEST) * PER_DECADE)
        self._edges: Doubles = np.linspace(LOWEST, HIGHEST, size + 1)
        self._counts: Ints = np.zeros(size, np.int64)
        self._exact = 0
        self._points: list[Doubles] = []

    def add(self, reference: Rows, candidate: Floats, scale: Scale) -> None:
        """Count one batch; values that are not finite are left out."""
        first, second = reference.values, candidate
        if reference.valid is None:
            first, second = first.ravel(), second.ravel()
        else:
            first, second = first[reference.valid], second[reference.valid]
        step = max(1, first.size // SAMPLE)
        pairs = np.stack([first[::step], second[::step]], axis=1).astype(np.float64)
        pairs = pairs[np.isfinite(pairs).all(axis=1)]
        errors = np.abs(pairs[:, 1] - pairs[:, 0])
        changed = errors > 0
        self._exact += int((~changed).sum())
        if scale.max > 0:
            logs = np.log10(errors[changed] / scale.max)
            inside = np.clip(logs, self._edges[0], self._edges[-1])
            self._counts += np.histogram(inside, self._edges)[0]
        self._points.append(pairs[:: max(1, len(pairs) // POINTS)])

    def errors(self) -> Errors:
        """What was counted."""
        points = np.concatenate(self._points) if self._points else np.zeros((0, 2))
        return Errors(self._edges, self._counts, self._exact, points)
