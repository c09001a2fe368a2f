"""A hundred builds without a fault pass: random configurations of every head in every precision.

A build whose limits are too tight would fail here; `test_planted_faults.py` is the other half.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support.checkpoints import VOCABULARY, write_checkpoint
from support.random_models import random_config

from exporter.demo import calibration_file
from exporter.model.profile import Range
from exporter.pipeline.build_artifact import build_and_judge
from exporter.pipeline.config import PRECISIONS, BuildConfig

pytestmark = pytest.mark.usefixtures("shared_traces")

CONFIGURATIONS = 20
FAST = 1
"""Configurations that run without `-m slow`."""

CALIBRATION_TEXTS = 128
LONGEST = 160
"""Above and below the length up to which a graph reads position terms in another way."""


@pytest.fixture(scope="module")
def calibration_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of the demo, a quarter of them: enough for scales, and other ones than are compared."""
    path = tmp_path_factory.mktemp("calibration") / "calibration.txt"
    lines = calibration_file().read_text(encoding="utf-8").splitlines()[:CALIBRATION_TEXTS]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(seed, marks=() if seed < FAST else pytest.mark.slow)
        for seed in range(CONFIGURATIONS)
    ],
)
def test_honest_builds_pass(
    seed: int,
    texts_file: Path,
    calibration_texts: Path,
    tmp_path: Path,
) -> None:
    fields, task = random_config(seed)
    fields |= {"vocab_size": VOCABULARY, "pooler_hidden_size": fields["hidden_size"]}
    checkpoint = write_checkpoint(tmp_path / "checkpoint", task.value, seed=seed, **fields)
    failed = {}
    for precision in PRECISIONS:
        config = BuildConfig(
            checkpoint,
            tmp_path / precision,
            precision=precision,
            targets=("onnx",),
            data=texts_file,
            calibration_data=None if precision == "fp32" else calibration_texts,
            seq=Range(1, 16, min(LONGEST, fields["max_position_embeddings"])),
        )
        manifest, result = build_and_judge(config)
        assert manifest.parity.passed == bool(result)
        assert result.limits.precision == precision
        assert len(result.layers.names) == fields["num_hidden_layers"] + 1, result.layers.reason
        assert len(result.checks) > 20
        if not result:
            failed[precision] = result.failures
    assert not failed


def test_every_head_is_among_the_configurations() -> None:
    tasks = {random_config(seed)[1] for seed in range(CONFIGURATIONS)}
    assert len(tasks) == 6
    assert CONFIGURATIONS * len(PRECISIONS) == 100
