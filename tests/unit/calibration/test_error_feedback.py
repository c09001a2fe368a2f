"""Rows rounded by what reads them: less harm there than to nearest, each row on its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from support.site_graphs import export_random

from calibration.error_feedback import ErrorFeedback, reader_metric
from calibration.tables import quantized_rows, row_scale, word_feedback
from exporter.deberta.checkpoint import load_model, open_checkpoint
from exporter.deberta.modeling import DebertaModel
from exporter.model.task import Task

pytestmark = pytest.mark.usefixtures("shared_traces")


def random(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def feedback_of(width: int, seed: int = 0) -> ErrorFeedback:
    # A spectrum that falls, as that of trained weights does.
    falling = random(width, width, seed=seed) * np.float32(0.9) ** np.arange(width)
    projection = falling @ random(width, 3 * width, seed=seed + 1)
    return ErrorFeedback(reader_metric(projection, 1 + 0.5 * random(width, seed=1)))


@pytest.mark.parametrize("width", [1, 2, 31, 32, 33, 70])
def test_it_costs_less_than_rounding_to_nearest(width: int) -> None:
    feedback, steps = feedback_of(width), 40 * random(300, width, seed=2)
    nearest = np.clip(np.rint(steps), -127, 127)
    stored = feedback.rounded(steps)
    assert stored.dtype == np.int8 and np.abs(stored.astype(int)).max() <= 127
    cost, least = feedback.cost(stored - steps).sum(), feedback.cost(nearest - steps).sum()
    assert cost <= least
    assert width < 31 or cost < 0.8 * least


def test_a_row_depends_on_no_other_and_a_row_of_zeros_stays_one() -> None:
    feedback, rows = feedback_of(40), random(50, 40)
    before = quantized_rows(rows, feedback)
    rows[3] = 0
    rows[5] *= 2.0**90
    after = quantized_rows(rows, feedback)
    others = [row for row in range(50) if row != 3]
    np.testing.assert_array_equal(after[others], before[others])
    assert not after[3].any()
    np.testing.assert_array_equal(quantized_rows(rows[7:8], feedback), after[7:8])


def test_gains_of_zero_round_to_nearest() -> None:
    feedback = ErrorFeedback(reader_metric(random(8, 24), np.zeros(8, np.float32)))
    steps = 30 * random(20, 8)
    np.testing.assert_array_equal(feedback.rounded(steps), np.rint(steps))


def test_weights_of_zero_are_rounded_too() -> None:
    feedback = ErrorFeedback(reader_metric(np.zeros((8, 24), np.float32), np.ones(8, np.float32)))
    steps = 30 * random(20, 8)
    assert np.abs(feedback.rounded(steps) - steps).max() < 2


def test_what_one_projection_gains_and_another_loses_changes_nothing() -> None:
    projection, gains = random(40, 120), np.ones(40, np.float32)
    steps, factors = 30 * random(20, 40, seed=3), 2.0 ** np.arange(-60, 60)
    scaled = (projection * factors).astype(np.float32)
    np.testing.assert_array_equal(
        ErrorFeedback(reader_metric(scaled, gains)).rounded(steps),
        ErrorFeedback(reader_metric(projection, gains)).rounded(steps),
    )


@pytest.mark.parametrize("changes", [{}, {"embedding_size": 50}, {"conv_kernel_size": 3}])
@torch.no_grad()
def test_what_the_first_layer_projects_is_closer(changes: dict[str, Any], tmp_path: Path) -> None:
    """In the reference model itself: what the metric was made from takes no part."""
    task = Task.BASE
    path, fields = export_random(tmp_path, task, type_vocab_size=0, vocab_size=400, **changes)
    weight = "embeddings.word_embeddings.weight"
    graph = ir.load(path)
    (name,) = (item for item in graph.graph.initializers if item.endswith(weight))
    feedback = word_feedback(graph, name)
    assert feedback is not None
    model = load_model(open_checkpoint(tmp_path, task))
    assert isinstance(model, DebertaModel)
    attention = model.encoder.layer[0].attention.self
    ids = torch.arange(1, 400).view(3, -1)

    def projected() -> torch.Tensor:
        hidden = model.embeddings(ids, torch.ones_like(ids), None)
        parts = (attention.query_proj, attention.key_proj, attention.value_proj)
        return torch.cat([part(hidden) for part in parts], dim=-1)

    exact, rows = projected(), model.embeddings.word_embeddings.weight.clone().numpy()
    errors = []
    for found in (None, feedback):
        values = torch.from_numpy(quantized_rows(rows, found) * row_scale(rows))
        model.embeddings.word_embeddings.weight.copy_(values)
        errors.append(float((projected() - exact).square().mean()))
    assert errors[1] < 0.9 * errors[0], (errors, fields["hidden_size"])


def test_rows_that_a_decoder_reads_too_are_rounded_to_nearest(tmp_path: Path) -> None:
    changes = {"type_vocab_size": 0, "legacy": True, "tie_word_embeddings": True}
    path, _ = export_random(tmp_path, Task.MASKED_LM, **changes)
    assert word_feedback(ir.load(path), "deberta.embeddings.word_embeddings.weight") is None
