"""No limit is met by a constant, and each figure of a task has a fault that fails it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from exporter.deberta.configuration import DebertaConfig
from exporter.inputs.cases import DataSet, ParityCase
from exporter.metrics.figures import Floats
from exporter.model.feeds import Ids
from exporter.model.model_shape import ModelShape
from exporter.model.task import ARCHITECTURES, Task
from exporter.parity.check import check_sides
from exporter.parity.limits import PRECISIONS, Level, Metric, limits_for
from exporter.parity.report.html import to_html
from exporter.parity.report.json import to_json
from exporter.parity.report.junit import to_junit
from exporter.parity.report.text import to_markdown, to_table
from exporter.parity.result import ParityResult, SideInfo
from exporter.parity.runners import Layers, Observation
from exporter.parity.side import Side
from exporter.parity.store import ReferenceStore

SIZE, BATCHES, TOKENS = 8, 5, 12
TAGS = ("O", "B-PER", "I-PER")
Outputs = dict[str, Floats]
Change = Callable[[Outputs], None]


def shape_of(task: Task, names: tuple[str, ...] = TAGS) -> ModelShape:
    config = DebertaConfig(
        vocab_size=50,
        hidden_size=8,
        num_attention_heads=2,
        id2label=MappingProxyType(dict(enumerate(names))),
    )
    return config.shape(task)


class Arrays:
    """Outputs that the ids determine: clear choices of width `spread` around `level`."""

    name, layers = "arrays", Layers(reason="none")

    def __init__(
        self,
        shape: ModelShape,
        change: Change | None = None,
        level: float = 0.0,
        spread: float = 1.0,
    ) -> None:
        self._shape, self._change = shape, change
        self._level, self._spread = level, spread

    def observe(self, feeds: Mapping[str, Ids], layers: bool) -> Observation:
        generator = np.random.default_rng(int(feeds["input_ids"].sum()))
        outputs = {}
        for name in self._shape.outputs:
            values = generator.normal(size=self._shape.output_shape(feeds["input_ids"].shape))
            outputs[name] = (self._level + self._spread * values).astype(np.float32)
        if self._change is not None:
            self._change(outputs)
        return Observation(outputs, [], 0.001)

    def close(self) -> None:
        pass


def judged(
    folder: Path, shape: ModelShape, change: Change | None, precision: str, **head: float
) -> ParityResult:
    generator = np.random.default_rng(5)
    size = (SIZE, 3, TOKENS) if shape.rank == 3 else (SIZE, TOKENS)
    cases = []
    for index in range(BATCHES):
        ids = generator.integers(1, 50, size)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        queries = tuple(f"query {index}" for _ in range(SIZE))
        cases.append(ParityCase(f"batch {index}", feeds, (), firsts=queries))
    info = SideInfo("a model", "checkpoint", "fp32", "arrays")
    reference = Side(info, shape, None, None, (lambda shape: Arrays(shape, **head),))
    candidate = replace(reference, opens=(lambda shape: Arrays(shape, change, **head),))
    return check_sides(
        reference,
        candidate,
        shape,
        (DataSet("data", tuple(cases)),),
        limits_for(precision),
        lambda message: None,
        store=ReferenceStore(folder),
    )


def failed(result: ParityResult) -> set[Metric]:
    return {check.limit.metric for check in result.checks if not check.passed}


def make_constant(outputs: Outputs) -> None:
    """The same for every input: what a graph gives that has lost its embeddings."""
    for values in outputs.values():
        values[:] = np.random.default_rng(1).normal(size=values.shape[1:])


def make_the_level(outputs: Outputs) -> None:
    """The nearest constant to an output that is 100 and a little."""
    for values in outputs.values():
        values[:] = 100.0


HEADS = [(task, TAGS) for task in ARCHITECTURES.values()] + [
    (Task.SEQUENCE_CLASSIFICATION, ("score",))
]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("task", "names"), HEADS, ids=lambda v: str(v)[:20])
def test_a_constant_output_fails(
    task: Task, names: tuple[str, ...], precision: str, tmp_path: Path
) -> None:
    shape = shape_of(task, names)
    assert judged(tmp_path, shape, None, precision)
    found = failed(judged(tmp_path, shape, make_constant, precision))
    assert Metric.CORRELATION in found
    assert Metric.SPREAD_RELATIVE in found


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("task", "names"), HEADS, ids=lambda v: str(v)[:20])
def test_a_constant_fails_where_the_reference_is_nearly_one(
    task: Task, names: tuple[str, ...], precision: str, tmp_path: Path
) -> None:
    # 1e-3 of the logits differs between inputs: less than any relative error of 8 bits permits.
    shape, head = shape_of(task, names), {"level": 100.0, "spread": 0.1}
    assert judged(tmp_path, shape, None, precision, **head)
    assert Metric.CORRELATION in failed(judged(tmp_path, shape, make_the_level, precision, **head))


def reverse_order(outputs: Outputs) -> None:
    outputs["logits"] *= -1


def lose_an_end(outputs: Outputs) -> None:
    outputs["end_logits"][0] = np.roll(outputs["end_logits"][0], 1)
    outputs["end_logits"][1] = np.roll(outputs["end_logits"][1], 1)


def rotate_labels(outputs: Outputs) -> None:
    outputs["logits"][0] = np.roll(outputs["logits"][0], 1, axis=-1)


def rotate_vocabulary(outputs: Outputs) -> None:
    outputs["logits"][:2] = np.roll(outputs["logits"][:2], 1, axis=-1)


FAULTS = [
    (Task.SEQUENCE_CLASSIFICATION, ("score",), reverse_order, "spearman order_flips"),
    (Task.TOKEN_CLASSIFICATION, TAGS, rotate_labels, "entity_precision entity_recall"),
    (Task.QUESTION_ANSWERING, TAGS, lose_an_end, "exact_match answer_f1"),
    (Task.MASKED_LM, TAGS, rotate_vocabulary, "top5_overlap"),
]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("task", "names", "fault", "metrics"), FAULTS, ids=lambda v: str(v)[:20])
def test_a_fault_fails_the_figures_of_its_task(
    task: Task, names: tuple[str, ...], fault: Change, metrics: str, precision: str, tmp_path: Path
) -> None:
    shape = shape_of(task, names)
    result = judged(tmp_path, shape, fault, precision)
    assert {Metric(name) for name in metrics.split()} <= failed(result)
    checks = {c.limit.metric.value: c for c in result.checks if c.level is Level.TASK}
    assert set(checks) == set(metrics.split())
    for make in (to_table, to_markdown, to_html, to_junit):
        assert all(name in make(result) for name in checks)
    shown = {c["metric"]: c["value"] for c in to_json(result)["checks"] if c["level"] == "task"}
    assert shown == {name: check.value for name, check in checks.items()}


def turn_near_ties(outputs: Outputs) -> None:
    """The other of two choices that are nearly alike, in every row."""
    logits = outputs["logits"]
    logits[:] = logits[:, ::-1]


def test_near_ties_that_flip_are_limited_and_shown(tmp_path: Path) -> None:
    shape = shape_of(Task.SEQUENCE_CLASSIFICATION, ("no", "yes"))
    result = judged(tmp_path, shape, turn_near_ties, "int8", level=1.0, spread=1e-3)
    assert Metric.TIED_FLIPS in failed(result)
    (tally,) = result.tallies
    assert (tally.equal, tally.tied, tally.flipped) == (0, SIZE * BATCHES, 0)
    text = f"0 equal, {tally.tied} of {tally.near_ties} near ties flipped, 0 flipped"
    for make in (to_table, to_markdown, to_html, to_junit):
        assert text in make(result)
    shown = to_json(result)["data_sets"][0]["decisions"]["logits"]
    names = ("equal", "near_ties", "tied", "flipped", "tied_flips")
    assert [shown[name] for name in names] == [getattr(tally, name) for name in names]
    assert shown["near_tie_margin"] == tally.tie == pytest.approx(4 * tally.rms_error)
