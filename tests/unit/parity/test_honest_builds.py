"""Builds without a fault pass: a share of `tools.honest_builds`, whose counts docs/parity.md has.

A build whose limits are too tight would fail here; `test_planted_faults.py` is the other half.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.pipeline.config import PRECISIONS
from tools.honest_builds import DEVIATIONS, deviation_of, honest_builds
from tools.random_configurations import random_config

pytestmark = pytest.mark.usefixtures("shared_traces")

SEEDS = (0, 20, 43)
"""The first without `-m slow`; the others have weights of deviation 0.15."""


@pytest.mark.parametrize(
    "seed", [SEEDS[0], *(pytest.param(s, marks=pytest.mark.slow) for s in SEEDS[1:])]
)
def test_honest_builds_pass(seed: int, tmp_path: Path) -> None:
    failed = {}
    layers = random_config(seed)[0]["num_hidden_layers"]
    for precision, result in honest_builds(seed, tmp_path):
        assert result.limits.precision == precision
        assert result.judged_by == "stages"
        assert len(result.layers.names) == layers + 1, result.layers.reason
        assert len(result.checks) > 20
        if not result:
            failed[precision] = result.failures
    assert not failed


def test_every_head_precision_and_deviation_is_among_the_configurations() -> None:
    found = {(random_config(seed)[1], deviation_of(seed)) for seed in range(100)}
    assert len(found) == 6 * len(DEVIATIONS)
    assert len(PRECISIONS) == 5
