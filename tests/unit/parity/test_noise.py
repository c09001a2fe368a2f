"""The limits between the noise of honest builds and planted faults, by the committed figures."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from exporter.parity.limits import Metric, limits_for

ROWS = Path(__file__).parents[3] / "benchmarks" / "results" / "parity_noise.csv"


def rows(*subjects: str) -> list[dict[str, str]]:
    with ROWS.open(newline="", encoding="utf-8") as stream:
        return [row for row in csv.DictReader(stream) if row["subject"] in subjects]


def exceeded(row: dict[str, str], precision: str) -> list[str]:
    return [
        limit.metric.value
        for limit in limits_for(precision).limits
        if row.get(limit.metric.value) and not limit.holds(float(row[limit.metric.value]))
    ]


@pytest.mark.parametrize(
    ("precision", "deviation"), [("fp16", 0.1), ("bf16", 0.1), ("int8", 0.05), ("fp8", 0.1)]
)
def test_honest_builds_of_every_head_pass(precision: str, deviation: float) -> None:
    found = [row for row in rows(precision) if float(row["deviation"]) <= deviation]
    assert len(found) >= 16 and len({row["task"] for row in found}) == 6
    assert {
        row["seed"]: exceeded(row, precision) for row in found if exceeded(row, precision)
    } == {}


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "fp8"])
def test_limits_are_no_wider_than_ten_times_the_noise(precision: str) -> None:
    found = [row for row in rows(precision) if float(row["deviation"]) <= 0.1]
    for metric in (Metric.MAX_RELATIVE, Metric.RMS_RELATIVE, Metric.MEAN_KL):
        worst = max(float(row[metric.value]) for row in found if row[metric.value])
        assert limits_for(precision).bound(metric) < 10 * worst


def test_planted_faults_are_outside_the_limits() -> None:
    faults = rows("transpose_values", "lose_layer")
    assert len(faults) == 24
    for precision in ("fp16", "bf16"):
        assert [row["seed"] for row in faults if not exceeded(row, precision)] == []
