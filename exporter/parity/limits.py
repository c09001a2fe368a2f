"""The limits of a parity check, by precision and metric, each with its reason.

`docs/parity.md` explains the metrics; `exporter.parity.metrics` computes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from exporter.errors import InputError


class Metric(str, Enum):
    """What a limit is set on; the value is its name in reports."""

    NON_FINITE = "non_finite"
    MAX_RELATIVE = "max_relative"
    RMS_RELATIVE = "rms_relative"
    SPREAD_RELATIVE = "spread_relative"
    MIN_COSINE = "min_cosine"
    AGREEMENT = "agreement"
    MEAN_KL = "mean_kl"


HIGHER_IS_BETTER = frozenset({Metric.MIN_COSINE, Metric.AGREEMENT})


@dataclass(frozen=True)
class Limit:
    """The worst value of a metric that passes.

    `bound` is a minimum for cosine and agreement and a maximum for the others.
    """

    metric: Metric
    bound: float
    reason: str

    def holds(self, value: float) -> bool:
        """Whether `value` is within the limit; NaN never is."""
        return value >= self.bound if self.metric in HIGHER_IS_BETTER else value <= self.bound


@dataclass(frozen=True)
class Limits:
    """All limits of one precision."""

    precision: str
    limits: tuple[Limit, ...]

    def bound(self, metric: Metric) -> float:
        """The bound of `metric`.

        Raises:
            KeyError: there is no limit on it.
        """
        for limit in self.limits:
            if limit.metric is metric:
                return limit.bound
        raise KeyError(metric)


# Measured with ONNX Runtime 1.32 on 12 to 48 layers of random weights (deviation 0.02 and 0.05),
# every head: at most 6e-6, 2.2e-6 and 7e-6 for the three relative errors, 6e-13 nats. Planted
# faults in the same models, from a dropped mask to one doubled weight, start at about 4e-4.
_FP32 = (
    Limit(Metric.NON_FINITE, 0, "a NaN or infinity is never an answer"),
    Limit(
        Metric.MAX_RELATIVE,
        5e-5,
        "sums of thousands of fp32 terms in another order differ by about 1e-6 a layer; ten times "
        "the largest error seen over 48 layers",
    ),
    Limit(
        Metric.RMS_RELATIVE,
        1e-5,
        "rounding errors are independent, so that their mean stays well below the largest; five "
        "times the largest seen",
    ),
    Limit(
        Metric.SPREAD_RELATIVE,
        3e-4,
        "rounding of 3e-6 beside differences between inputs that are 1 % of the output, the "
        "smallest that count",
    ),
    Limit(
        Metric.MIN_COSINE,
        0.999999,
        "an error of 1e-5 turns even a vector of a hundredth of the usual length by 5e-7 only",
    ),
    Limit(Metric.AGREEMENT, 1.0, "fp32 changes no decision but a tie within the permitted error"),
    Limit(
        Metric.MEAN_KL,
        1e-7,
        "an error of 1e-5 in logits of 30 gives (3e-4)^2 / 2 = 4.5e-8 nats",
    ),
)

_LIMITS = {"fp32": _FP32}


def limits_for(precision: str) -> Limits:
    """The limits that an artifact of this precision is held to.

    Raises:
        InputError: no limits are known for it.
    """
    if precision not in _LIMITS:
        raise InputError(f"precision {precision!r}: no parity limits; known are {sorted(_LIMITS)}")
    return Limits(precision, _LIMITS[precision])
