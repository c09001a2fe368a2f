"""The accuracy budget's memory: one batch of outputs, however many there are."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.checkpoints import write_checkpoint

from calibration.placement import Placement
from calibration.sensitivity import Budget
from exporter.deberta.checkpoint import open_checkpoint
from exporter.model.model_shape import ModelShape
from exporter.precision.quantized import choose
from exporter.precision.quantized.calibration_text import CalibrationText, TextBatches
from exporter.progress import silent

BATCHES, ROWS, LENGTH, WORDS = 24, 4, 16, 8000


def outputs(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {"logits": random.normal(size=(ROWS, LENGTH, WORDS)).astype(np.float32)}


class Session:
    """The fp32 graph: other outputs for each batch."""

    def __init__(self, *arguments: Any) -> None:
        self.seed = 0

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *arguments: Any) -> None:
        pass

    def run(self, **feeds: Any) -> dict[str, np.ndarray]:
        self.seed += 1
        return outputs(self.seed)


@dataclass
class Exact:
    """Candidates that compute what the fp32 graph does, with one batch off by a little."""

    source: Path
    shape: ModelShape
    placement: Placement

    def run(
        self, placement: Placement, batches: tuple[Mapping[str, np.ndarray], ...]
    ) -> Iterator[dict[str, np.ndarray]]:
        for index in range(len(batches)):
            found = outputs(index + 1)
            if index == 3:
                found["logits"][0, 0] = -found["logits"][0, 0]
            yield found


def test_a_masked_lm_keeps_one_batch_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = open_checkpoint(write_checkpoint(tmp_path / "c", "masked-lm")).shape
    mask = np.ones((ROWS, LENGTH), np.int64)
    rows = tuple(tuple(range(ROWS * n, ROWS * (n + 1))) for n in range(BATCHES))
    batches = TextBatches(({"attention_mask": mask},) * BATCHES, rows, "", ())
    text = CalibrationText(1, 1, batches, batches, (SimpleNamespace(label=None),))  # type: ignore[arg-type]
    monkeypatch.setattr(choose, "OnnxSession", Session)
    monkeypatch.setattr(choose, "units_of", lambda sites, tables: {})
    exact = Exact(tmp_path / "fp32.onnx", shape, Placement((), {}))
    tracemalloc.start()
    try:
        report = choose.fit_to_budget(exact, text, Budget(0.5), silent)  # type: ignore[arg-type]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert report.before.decisions == BATCHES * ROWS * LENGTH
    assert report.before.changed == 1
    batch_bytes = 4 * ROWS * LENGTH * WORDS
    assert peak < 8 * batch_bytes < BATCHES * batch_bytes
    assert {path.name for path in tmp_path.iterdir()} == {"c"}
