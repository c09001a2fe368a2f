"""Limits of each precision, and their choice."""

from __future__ import annotations

from math import inf, nan

import pytest

from exporter.errors import InputError
from exporter.parity.limits import Limit, Metric, limits_for
from exporter.pipeline.config import PRECISIONS, QUANTIZED_PRECISIONS


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_limits_every_metric_with_a_reason(precision: str) -> None:
    limits = limits_for(precision).limits
    # With 8 bits, the decisions and the relative errors judge rows of a few logits.
    unlimited = {Metric.MIN_COSINE} if precision in QUANTIZED_PRECISIONS else set()
    assert [limit.metric for limit in limits] == [m for m in Metric if m not in unlimited]
    assert all(len(limit.reason) > 20 for limit in limits)


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(InputError, match="fp99"):
        limits_for("fp99")


@pytest.mark.parametrize(
    ("metric", "good", "bad"),
    [(Metric.MAX_RELATIVE, 0.5, 0.500001), (Metric.MIN_COSINE, 0.5, 0.499999)],
)
def test_a_limit_holds_up_to_its_bound(metric: Metric, good: float, bad: float) -> None:
    limit = Limit(metric, 0.5, "a reason")
    assert limit.holds(good)
    assert not limit.holds(bad)
    assert not limit.holds(nan)


def test_infinite_errors_fail() -> None:
    assert not any(
        limit.holds(inf) for limit in limits_for("fp32").limits if "relative" in limit.metric.value
    )
