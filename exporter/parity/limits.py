"""The limits of a parity check, by precision and metric, each with its reason.

`docs/parity.md` explains the metrics; `exporter.metrics.figures` computes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
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
    CONFIDENCE_SHIFT = "confidence_shift"
    ACCURACY_DROP = "accuracy_drop"
    ECE_SHIFT = "ece_shift"
    LAYER_MAX_RELATIVE = "layer_max_relative"
    LAYER_RMS_RELATIVE = "layer_rms_relative"
    LAYER_MIN_COSINE = "layer_min_cosine"
    LAYER_ADDED_RELATIVE = "layer_added_relative"


HIGHER_IS_BETTER = frozenset({Metric.MIN_COSINE, Metric.AGREEMENT, Metric.LAYER_MIN_COSINE})
DECISION_METRICS = frozenset(
    {
        Metric.AGREEMENT,
        Metric.MEAN_KL,
        Metric.CONFIDENCE_SHIFT,
        Metric.ACCURACY_DROP,
        Metric.ECE_SHIFT,
    }
)
LAYER_METRICS = frozenset(
    {
        Metric.LAYER_MAX_RELATIVE,
        Metric.LAYER_RMS_RELATIVE,
        Metric.LAYER_MIN_COSINE,
        Metric.LAYER_ADDED_RELATIVE,
    }
)
BUILT_IN = "built in"


@dataclass(frozen=True)
class Limit:
    """The worst value of a metric that passes.

    `bound` is a minimum for cosines and agreement and a maximum for the others. `origin` says who
    set it: this file, a file of the user, or the command line.
    """

    metric: Metric
    bound: float
    reason: str
    origin: str = BUILT_IN

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

    def replaced(self, changes: Iterable[Limit]) -> Limits:
        """The limits with these in the place of those on the same metrics, or beside them."""
        limits = {limit.metric: limit for limit in self.limits}
        limits.update((limit.metric, limit) for limit in changes)
        return replace(self, limits=tuple(limits[m] for m in Metric if m in limits))


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
        "an error of 1e-5 turns the shortest row that counts, a fifth of the usual length, by "
        "1e-9; the largest one permitted by 3e-8",
    ),
    Limit(Metric.AGREEMENT, 1.0, "fp32 changes no decision but a tie within the permitted error"),
    Limit(
        Metric.MEAN_KL,
        1e-7,
        "an error of 1e-5 in logits of 30 gives (3e-4)^2 / 2 = 4.5e-8 nats",
    ),
)

# Measured with half's rounding in every value by benchmarks/parity_noise.py, on 2 to 24 layers of
# random weights (deviation 0.02 to 0.1), every head: at most 4.2e-3, 3.2e-3 and 2.7e-2 for the
# three relative errors, 3.1e-4 for the cosine of logits of a row, 1.8e-6 nats. The largest are of
# heads whose logits are nearly constant. The demo has 1.7e-4, 1e-4, 1e-4 and 1e-9 nats.
_FP16 = (
    Limit(Metric.NON_FINITE, 0, "a NaN or infinity is never an answer; fp16 overflows to it"),
    Limit(
        Metric.MAX_RELATIVE,
        1e-2,
        "rounding of 5e-4 in every value that is multiplied gives 1e-3 after 48 layers; twice the "
        "largest error seen, with weights larger than trained ones",
    ),
    Limit(
        Metric.RMS_RELATIVE,
        5e-3,
        "rounding errors are independent, so that their mean stays below the largest; half as much "
        "again as the largest seen",
    ),
    Limit(
        Metric.SPREAD_RELATIVE,
        4e-2,
        "rounding of 4e-4 beside differences between inputs that are 1 % of the output, the "
        "smallest that count; half as much again as the largest seen",
    ),
    Limit(
        Metric.MIN_COSINE,
        0.999,
        "an error of 5e-3 turns the shortest row that counts, a fifth of the usual length, by 3e-4",
    ),
    Limit(Metric.AGREEMENT, 1.0, "fp16 changes no decision but a tie within the permitted error"),
    Limit(Metric.MEAN_KL, 1e-5, "an error of 1e-3 in logits of 4 gives (4e-3)^2 / 2 = 8e-6 nats"),
)

# bf16 rounds eight times coarser. Measured as above: at most 2.8e-2, 2.6e-2 and 0.15, 7.4e-3 for
# the cosine, 9.5e-5 nats; the demo has 2.2e-3, 1.1e-3, 1.1e-3 and 1.3e-7 nats.
_BF16 = (
    Limit(Metric.NON_FINITE, 0, "a NaN or infinity is never an answer"),
    Limit(
        Metric.MAX_RELATIVE,
        6e-2,
        "rounding of 4e-3 in every value that is multiplied gives 2e-2 after 48 layers; above the "
        "largest error seen, with weights larger than trained ones",
    ),
    Limit(Metric.RMS_RELATIVE, 4e-2, "eight times that of fp16"),
    Limit(Metric.SPREAD_RELATIVE, 3e-1, "nearly eight times that of fp16"),
    Limit(
        Metric.MIN_COSINE,
        0.98,
        "an error of 4e-2 turns the shortest row that counts, a fifth of the usual length, by 2e-2",
    ),
    Limit(
        Metric.AGREEMENT,
        0.9995,
        "rounding of 4e-3 changes one decision in thousands beside ties within the permitted error",
    ),
    Limit(Metric.MEAN_KL, 3e-4, "four times the largest seen, with weights larger than trained"),
)

# int8 rounds the inputs of linear layers to 127 steps up to their largest value. Measured as above
# up to a deviation of 0.05: at most 4.6e-2, 3.3e-2 and 8.3e-2 for the three relative errors, 5.2e-4
# nats. At 0.1, more than trained weights have, it is 0.16, 7.3e-2, 0.1 and 1.4e-3 nats: 2 of 8
# builds leave the limits. v3-base with random weights and two labels has 6.4e-2, 7e-2, 0.14 and
# 3.4e-5 nats, where its hidden states differ by 3.2e-2: the logits of such a head can be small. The
# demo has 5e-3, 3e-3, 3e-3, 1.4e-6 nats.
# There is no limit on the cosine of outputs: `rms_relative` and the decisions judge a row of two or
# three logits. That of hidden states is limited.
_INT8 = (
    Limit(Metric.NON_FINITE, 0, "a NaN or infinity is never an answer"),
    Limit(
        Metric.MAX_RELATIVE,
        1e-1,
        "a half step of 127 in every linear layer gives 7e-2 after 48 layers; above the largest "
        "error seen, with weights larger than trained ones",
    ),
    Limit(
        Metric.RMS_RELATIVE,
        1e-1,
        "half as much again as the largest seen, of a head without training whose few logits are "
        "small beside the hidden states they come from",
    ),
    Limit(
        Metric.SPREAD_RELATIVE,
        4e-1,
        "beside small differences between inputs; twice the largest seen, with random weights that "
        "hardly tell inputs apart",
    ),
    Limit(
        Metric.AGREEMENT,
        0.995,
        "one decision in two hundred beside ties within the permitted error",
    ),
    Limit(Metric.MEAN_KL, 1e-3, "four times the largest seen, with weights larger than trained"),
)

# fp8 has 3 bits of mantissa: its step is up to 1/8 of a value. Measured as above: at most 0.23,
# 0.12, 0.94 and 2.8e-3 nats; the demo has 1.5e-2, 8e-3, 8e-3 and 9e-6 nats.
_FP8 = (
    Limit(Metric.NON_FINITE, 0, "a NaN or infinity is never an answer"),
    Limit(
        Metric.MAX_RELATIVE,
        3e-1,
        "errors of up to 1/16 of each input and weight give 0.23 after 48 layers; above the "
        "largest error seen, with weights larger than trained ones",
    ),
    Limit(Metric.RMS_RELATIVE, 2e-1, "above the largest seen"),
    Limit(
        Metric.SPREAD_RELATIVE,
        1.0,
        "beside small differences between inputs, with random weights that hardly tell them apart; "
        "an output that says nothing of its input has 1.4",
    ),
    Limit(
        Metric.AGREEMENT,
        0.99,
        "one decision in a hundred beside ties within the permitted error",
    ),
    Limit(Metric.MEAN_KL, 1e-2, "four times the largest seen, with weights larger than trained"),
)

_LIMITS = {"fp32": _FP32, "fp16": _FP16, "bf16": _BF16, "int8": _INT8, "fp8": _FP8}
PRECISIONS = tuple(_LIMITS)
"""From the tightest limits to the widest."""

_NO_LOSS = "follows from the agreement: only a decision that changes can be lost"
_ECE = "twice the shift of the confidence, and a decision in a bin may change"


def _decisions(confidence: float, accuracy: float, ece: float, reason: str) -> tuple[Limit, ...]:
    return (
        Limit(Metric.CONFIDENCE_SHIFT, confidence, reason),
        Limit(Metric.ACCURACY_DROP, accuracy, _NO_LOSS),
        Limit(Metric.ECE_SHIFT, ece, _ECE),
    )


_DECISIONS = {
    "fp32": _decisions(1e-5, 0.0, 1e-3, "an error of 1e-5 in a logit moves no probability by more"),
    "fp16": _decisions(1e-3, 0.0, 5e-3, "an error of 4e-3 in a logit moves one by a quarter of it"),
    "bf16": _decisions(
        5e-3, 5e-4, 1e-2, "an error of 2e-2 in a logit moves one by a quarter of it"
    ),
    "int8": _decisions(
        1e-2, 5e-3, 3e-2, "an error of 4e-2 in a logit moves one by a quarter of it"
    ),
    "fp8": _decisions(3e-2, 1e-2, 6e-2, "an error of 0.1 in a logit moves one by a quarter of it"),
}


def _layers(
    largest: float, rms: float, cosine: float, added: float, reason: str
) -> tuple[Limit, ...]:
    return (
        Limit(Metric.LAYER_MAX_RELATIVE, largest, f"{reason}; of the largest in the layer"),
        Limit(Metric.LAYER_RMS_RELATIVE, rms, f"{reason}; of all tokens together"),
        Limit(Metric.LAYER_MIN_COSINE, cosine, f"{reason}; of the worst token, turned by it"),
        Limit(Metric.LAYER_ADDED_RELATIVE, added, f"{reason}; beyond twice what it is given"),
    )


# Measured on 2, 12 and 48 layers of random weights (deviation 0.02, 0.08, 0.15), the worst layer:
# fp32 2.7e-6, 8e-7 and 1 - 4e-12; fp16 5.7e-3, 1.9e-3 and 1 - 2e-5; bf16 8.1e-2, 1.5e-2 and
# 1 - 2e-3; int8 0.27, 3.8e-2 and 0.966; fp8 0.53, 0.13 and 0.73. The large ones are single tokens
# at a deviation of 0.15, where attention is nearly a choice; at 0.08 int8 has 5e-2, 1.9e-2, 0.997.
# The first layer adds most: 2.4e-7, 5.4e-4, 4.4e-3, 1.7e-2 and 4.4e-2; fp8 7.8e-2 in a layer of 20
# channels (tests/unit/parity/test_honest_builds.py). What a layer adds is the tighter limit where
# errors of the layers before it are small, and names the layer that is wrong.
_LAYERS = {
    "fp32": _layers(
        5e-5, 1e-5, 0.999999, 3e-6, "a layer adds rounding of 1e-7 to what it is given"
    ),
    "fp16": _layers(
        2e-2, 5e-3, 0.9998, 1.5e-3, "a layer adds rounding of 3e-4 to what it is given"
    ),
    "bf16": _layers(1.5e-1, 4e-2, 0.99, 1e-2, "a layer adds rounding of 2e-3 to what it is given"),
    "int8": _layers(4e-1, 8e-2, 0.9, 2.5e-2, "a layer adds steps of 1/127 of its largest inputs"),
    "fp8": _layers(8e-1, 2.5e-1, 0.6, 1e-1, "a layer adds steps of 1/16 of its inputs"),
}


def limits_for(precision: str) -> Limits:
    """The limits that an artifact of this precision is held to.

    Raises:
        InputError: no limits are known for it.
    """
    if precision not in _LIMITS:
        raise InputError(f"precision {precision!r}: no parity limits; known are {sorted(_LIMITS)}")
    chosen = (*_LIMITS[precision], *_DECISIONS[precision], *_LAYERS[precision])
    return Limits(precision, chosen)


def widest(precisions: Iterable[str]) -> str:
    """Of some precisions the one whose limits are the widest."""
    return max(precisions, key=PRECISIONS.index)
