"""Whether a contender computes what the first one does; only then does its speed mean anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from exporter.metrics.decisions import Decision
from exporter.metrics.figures import add, measure, rows_of, scale_of
from exporter.model.feeds import Ids
from exporter.model.model_shape import ModelShape
from exporter.parity.limits import Metric, limits_for

Outputs = Mapping[str, NDArray[np.floating]]


@dataclass(frozen=True)
class Agreement:
    """Differences from the first contender over all inputs compared; true within the limits.

    Attributes:
        limits: names of the precisions whose limits count, the coarser bound of each metric.
        max_relative: largest difference, relative to the largest value of the output.
        rms_relative: root mean square of the differences, relative to that of the output.
        bounds: largest permitted value of each of the two.
        problem: what makes a comparison impossible: NaN, infinity, another shape.
    """

    limits: tuple[str, ...]
    max_relative: float
    rms_relative: float
    bounds: tuple[float, float]
    problem: str | None = None

    def __bool__(self) -> bool:
        within = self.max_relative <= self.bounds[0] and self.rms_relative <= self.bounds[1]
        return self.problem is None and within

    @property
    def verdict(self) -> str:
        """`ok`, or what is wrong."""
        if self.problem is not None:
            return f"WRONG: {self.problem}"
        return "ok" if self else f"WRONG: outside the limits of {' and '.join(self.limits)}"


def bounds_of(precisions: Sequence[str]) -> tuple[float, float]:
    """The coarser bound of the precisions for the largest and the mean error."""
    limits = [limits_for(name) for name in precisions]
    largest = max(limit.bound(Metric.MAX_RELATIVE) for limit in limits)
    return largest, max(limit.bound(Metric.RMS_RELATIVE) for limit in limits)


def agreement(
    shape: ModelShape,
    compared: Sequence[Mapping[str, Ids]],
    expected: Sequence[Outputs],
    found: Sequence[Outputs],
    precisions: tuple[str, ...],
) -> Agreement:
    """Compare outputs at valid positions: the first contender's for each batch with another's.

    `precisions` are those whose limits count.
    """
    bounds = bounds_of(precisions)
    worst = mean = 0.0
    for name in shape.outputs:
        pairs = []
        for feeds, one, other in zip(compared, expected, found, strict=True):
            wanted = shape.output_shape_of(feeds)
            if other[name].shape != wanted:
                problem = f"{name} has shape {other[name].shape}, expected {wanted}"
                return Agreement(precisions, np.inf, np.inf, bounds, problem)
            mask = shape.counted(feeds)
            pairs.append([rows_of(shape.task, side[name], mask) for side in (one, other)])
        scale = scale_of(reference for reference, _ in pairs)
        figures = reduce(add, (measure(a, b, scale, Decision.NONE) for a, b in pairs))
        if scale.non_finite or figures.non_finite:
            return Agreement(precisions, np.inf, np.inf, bounds, f"{name} has NaN or infinity")
        worst = max(worst, figures.max_relative)
        mean = max(mean, figures.rms_relative)
    return Agreement(precisions, worst, mean, bounds)
