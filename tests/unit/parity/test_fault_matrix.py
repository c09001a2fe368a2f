"""What can pass the check that should not: faults, one at a time, in every precision.

Each is planted into a finished graph with names, shapes and types kept, and has to fail the stage
that it sits in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from exporter.cli import main
from exporter.demo import checkpoint_folder
from exporter.errors import InputError
from exporter.pipeline.config import PRECISIONS
from tools.fault_matrix.faults import FAULTS, Fault, NotHereError, has
from tools.fault_matrix.judge import LAYER, Judged, build_judged

pytestmark = pytest.mark.usefixtures("shared_traces")

FAST = ("int8",)
Honest = Callable[[str, str], Judged]


@pytest.fixture(scope="module")
def honest(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Honest:
    """Builds the trained demo, or a random token classifier with a convolution, once."""
    made: dict[tuple[str, str], Judged] = {}

    def make(model: str, precision: str) -> Judged:
        if (model, precision) not in made:
            folder = checkpoint_folder()
            if model == "random":
                changes = {"num_hidden_layers": 3, "conv_kernel_size": 3}
                folder = make_checkpoint("token-classification", **changes)
            output = tmp_path_factory.mktemp("built") / f"{model}-{precision}"
            made[model, precision] = build_judged(folder, output, precision)
        return made[model, precision]

    return make


MODELS = [(model, precision) for model in ("demo", "random") for precision in PRECISIONS]
MATRIX = [
    (*item, fault)
    for item in MODELS
    for fault in FAULTS
    if has(item[1], fault.needs, convolution=item[0] == "random")
]


def marked(rows: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Rows as parameters, most of them slow."""
    fast = [row[0] == "demo" and row[1] in FAST for row in rows]
    marks = [() if now else (pytest.mark.slow,) for now in fast]
    return [
        pytest.param(*row, marks=mark, id="-".join(getattr(item, "name", item) for item in row))
        for row, mark in zip(rows, marks, strict=True)
    ]


def failures(judged: Judged, path: Path) -> list[str]:
    """What fails, in the order of execution."""
    return [stage.failure for stage in judged.stages(path) if stage.failure]


@pytest.mark.parametrize(("model", "precision"), marked(MODELS))
def test_an_honest_graph_keeps_to_its_plan(model: str, precision: str, honest: Honest) -> None:
    right = honest(model, precision)
    assert failures(right, right.path) == []


@pytest.mark.parametrize(("model", "precision", "fault"), marked(MATRIX))
def test_a_fault_is_seen_where_it_sits(
    model: str, precision: str, fault: Fault, honest: Honest, tmp_path: Path
) -> None:
    right = honest(model, precision)
    path = tmp_path / "faulty.onnx"
    right.write_faulty(fault, path)
    try:
        found = failures(right, path)
    except InputError:
        return  # the runtime itself refuses it
    assert found, fault.name
    layers = {f"layer {index} {stage}" for index in (0, LAYER) for stage in fault.stages}
    assert found[0].partition(":")[0] in {*fault.stages, *layers}, found


@pytest.mark.parametrize(
    "precision", [pytest.param(p, marks=() if p in FAST else pytest.mark.slow) for p in PRECISIONS]
)
def test_faults_in_a_last_layer_of_one_row(precision: str, honest: Honest, tmp_path: Path) -> None:
    right, path, seen = honest("demo", precision), tmp_path / "faulty.onnx", 0
    for fault in FAULTS:
        if not has(precision, fault.needs, convolution=False, one_row=True):
            continue
        with suppress(NotHereError, InputError):  # or the runtime itself refuses it
            right.write_faulty(fault, path, right.last)
            found = failures(right, path)
            assert found, fault.name
            stages = {f"layer {right.last} {stage}" for stage in fault.stages}
            assert found[0].partition(":")[0] in {*fault.stages, *stages}, (fault.name, found)
            seen += 1
    assert seen >= 25


@pytest.mark.parametrize("name", ["bias zero: intermediate", "a wrong slot at distance 20"])
def test_the_command_fails_and_names_the_layer(
    name: str, honest: Honest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fault = next(item for item in FAULTS if item.name == name)
    path = tmp_path / "faulty.onnx"
    honest("demo", "int8").write_faulty(fault, path)
    arguments = ["parity", "--reference", str(checkpoint_folder()), "--candidate", str(path)]
    assert main([*arguments, "--precision", "int8"]) == 1
    assert f"FAIL layer {LAYER} {fault.stages[0]}: " in capsys.readouterr().out
