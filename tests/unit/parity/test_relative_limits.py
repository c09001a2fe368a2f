"""A graph without a plan is held to the noise of its precision on this model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from support.parity_results import strip_plan

from exporter.cli import main
from exporter.demo import checkpoint_folder
from exporter.parity.check import CompareOptions, compare_sides
from exporter.parity.limits import BUILT_IN
from exporter.parity.result import ParityResult
from exporter.parity.sides import checkpoint_side, onnx_side
from tools.fault_matrix.faults import FAULTS
from tools.fault_matrix.judge import Judged, build_judged

Compare = Callable[..., ParityResult]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    return build_judged(checkpoint_folder(), tmp_path_factory.mktemp("built") / "int8", "int8")


@pytest.fixture(scope="module")
def compared(texts_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Compare:
    cache = tmp_path_factory.mktemp("cache")

    def compare(path: Path, *limits: str) -> ParityResult:
        options = CompareOptions(limits=limits, cache=cache)
        return compare_sides(checkpoint_side(checkpoint_folder()), onnx_side(path), options)

    return compare


def test_an_honest_graph_without_a_plan_passes(
    built: Judged, compared: Compare, tmp_path: Path
) -> None:
    path = strip_plan(built.path, tmp_path / "foreign.onnx")
    result = compared(path)
    assert result, result.failures
    assert (result.judged_by, compared(built.path).judged_by) == ("noise", "stages")
    (check,) = (
        check
        for check in result.data_sets[1].checks
        if (check.subject, check.limit.metric.value) == ("logits", "rms_relative")
    )
    # A constant for every model on earth is 0.1; this model errs by 2e-3.
    assert 1e-5 < check.limit.bound < 0.02 and check.limit.origin == BUILT_IN
    # A user's own limit is none of ours to move.
    assert not compared(path, "rms_relative=1e-6")


@pytest.mark.parametrize(
    "name", ["pos_key of one head zero", "Q and K swapped", "LayerNorm gain x 1.2"]
)
def test_a_fault_without_a_plan_is_seen_and_its_layer_named(
    name: str, built: Judged, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fault = next(item for item in FAULTS if item.name == name)
    built.write_faulty(fault, tmp_path / "faulty.onnx")
    path = strip_plan(tmp_path / "faulty.onnx", tmp_path / "foreign.onnx")
    report = tmp_path / "parity.json"
    arguments = ["parity", "--reference", str(checkpoint_folder()), "--candidate", str(path)]
    assert main([*arguments, "--json", str(report)]) == 1
    found = json.loads(report.read_text())
    assert found["judged_by"] == "noise"
    assert found["first_fault"]["subject"] == "layer 1"
    assert "3 times what rounding to int8 alone does" in capsys.readouterr().out


def test_a_constant_meets_no_limit_that_is_relative(
    built: Judged, compared: Compare, tmp_path: Path
) -> None:
    model = onnx.load(strip_plan(built.path, tmp_path / "foreign.onnx"))
    for tensor in model.graph.initializer:
        if tensor.name.endswith("classifier.weight"):
            tensor.raw_data = bytes(len(tensor.raw_data))
    onnx.save(model, tmp_path / "constant.onnx")
    failed = {
        c.limit.metric.value for c in compared(tmp_path / "constant.onnx").checks if not c.passed
    }
    assert {"correlation", "spread_relative"} <= failed
