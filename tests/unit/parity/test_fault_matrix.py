"""What can pass the check that should not: faults, one at a time, in every precision.

Each is planted into a finished graph with names, shapes and types kept, and has to fail the stage
that it sits in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.faults import FAULTS, Fault, planted
from torch import nn

from exporter.cli import main
from exporter.deberta.checkpoint import Checkpoint, open_checkpoint
from exporter.demo import checkpoint_folder
from exporter.errors import InputError
from exporter.inputs.cases import ParityCase
from exporter.parity.sides import planned_graph
from exporter.parity.stagewise import judge_stages, run_stages, stage_names
from exporter.pipeline.build import build
from exporter.pipeline.config import BuildConfig
from exporter.precision.emulate import emulated_model
from exporter.precision.plan import PrecisionPlan

pytestmark = pytest.mark.usefixtures("shared_traces")

LAYER = 1
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
FAST = ("int8", "fp16")
BELOW_ROUNDING: dict[tuple[str, str], str] = {}
"""Faults whose effect is smaller than what an honest graph of the precision leaves."""


@dataclass(frozen=True)
class Honest:
    """A finished graph, and what judges it."""

    checkpoint: Checkpoint
    path: Path
    graph: onnx.ModelProto
    plan: PrecisionPlan
    model: nn.Module
    cases: tuple[ParityCase, ...]

    def failures(self, path: Path) -> tuple[str, ...]:
        """What the judge says of a graph, in the order of execution."""
        rounded = self.plan.half is not None
        values = run_stages(path, self.checkpoint.shape, self.cases, rounded=rounded)
        names = stage_names(self.checkpoint)
        found = judge_stages(self.model, self.plan, names, values, lambda message: None)
        return tuple(item.failure for item in found if item.failure)


def cases_of(checkpoint: Checkpoint) -> tuple[ParityCase, ...]:
    """A ragged batch that has the tokens which faults in embeddings are about, and a long text."""
    generator = np.random.default_rng(3)
    ids = generator.integers(20, checkpoint.config.vocab_size, (4, 41))
    ids[0, :4] = (10, 11, 12, 13)
    mask = np.ones_like(ids)
    mask[1, 17:] = mask[2, 3:] = 0
    long = generator.integers(20, checkpoint.config.vocab_size, (1, 70))
    return tuple(
        ParityCase("", {"input_ids": one, "attention_mask": other}, ())
        for one, other in ((ids, mask), (long, np.ones_like(long)))
    )


@pytest.fixture(scope="module")
def honest(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Honest]:
    """Builds the trained demo, or a random token classifier with a convolution, once."""
    made: dict[tuple[str, str], Honest] = {}

    def make(model: str, precision: str) -> Honest:
        if (model, precision) not in made:
            folder = checkpoint_folder()
            if model == "random":
                changes = {"num_hidden_layers": 3, "conv_kernel_size": 3}
                folder = make_checkpoint("token-classification", **changes)
            output = tmp_path_factory.mktemp("built") / f"{model}-{precision}"
            build(BuildConfig(folder, output, precision=precision, targets=("onnx",)))
            checkpoint = open_checkpoint(folder)
            path = output / "model.onnx"
            planned = planned_graph(path)
            assert planned is not None
            made[model, precision] = Honest(
                checkpoint,
                path,
                onnx.load(path),
                planned[1],
                emulated_model(checkpoint, planned[1]),
                cases_of(checkpoint),
            )
        return made[model, precision]

    return make


def has(model: str, precision: str, needs: str) -> bool:
    """Whether a graph has what a fault needs."""
    if needs == "convolution":
        return model == "random"
    return not needs or precision == "int8" or (needs == "scales" and precision == "fp8")


MODELS = [(model, precision) for model in ("demo", "random") for precision in PRECISIONS]
MATRIX = [(*item, fault) for item in MODELS for fault in FAULTS if has(*item, fault.needs)]


def marked(rows: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Rows as parameters, most of them slow."""
    fast = [row[0] == "demo" and row[1] in FAST for row in rows]
    marks = [() if now else (pytest.mark.slow,) for now in fast]
    return [
        pytest.param(*row, marks=mark, id="-".join(getattr(item, "name", item) for item in row))
        for row, mark in zip(rows, marks, strict=True)
    ]


@pytest.mark.parametrize(("model", "precision"), marked(MODELS))
def test_an_honest_graph_keeps_to_its_plan(
    model: str, precision: str, honest: Callable[[str, str], Honest]
) -> None:
    right = honest(model, precision)
    assert right.failures(right.path) == ()


@pytest.mark.parametrize(("model", "precision", "fault"), marked(MATRIX))
def test_a_fault_is_seen_where_it_sits(
    model: str,
    precision: str,
    fault: Fault,
    honest: Callable[[str, str], Honest],
    tmp_path: Path,
) -> None:
    right = honest(model, precision)
    path = tmp_path / "faulty.onnx"
    onnx.save(planted(right.graph, fault, LAYER, right.checkpoint.config.num_attention_heads), path)
    try:
        failures = right.failures(path)
    except InputError:
        return  # the runtime itself refuses it
    if (fault.name, precision) in BELOW_ROUNDING:
        return
    assert failures, fault.name
    layers = {f"layer {index} {stage}" for index in (0, LAYER) for stage in fault.stages}
    places = {*fault.stages, *layers}
    assert failures[0].partition(":")[0] in places, failures


@pytest.mark.parametrize("name", ["bias zero: intermediate", "a wrong slot at distance 20"])
def test_the_command_fails_and_names_the_layer(
    name: str,
    honest: Callable[[str, str], Honest],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    right = honest("demo", "int8")
    fault = next(item for item in FAULTS if item.name == name)
    path = tmp_path / "faulty.onnx"
    onnx.save(planted(right.graph, fault, LAYER, right.checkpoint.config.num_attention_heads), path)
    arguments = ["parity", "--reference", str(checkpoint_folder()), "--candidate", str(path)]
    assert main([*arguments, "--precision", "int8"]) == 1
    assert f"FAIL layer {LAYER} {fault.stages[0]}: " in capsys.readouterr().out
