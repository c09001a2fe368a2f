"""Measured ranges against numpy and against values that ONNX Runtime gives out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from support.half_models import session

from calibration.calibration_error import CalibrationError
from calibration.ranges import ValueRange, inner_name, measure_ranges
from exporter.deberta.checkpoint import open_checkpoint
from exporter.errors import InputError
from exporter.graph.export import export_onnx
from exporter.runtime.providers.onnx_session import open_fp32

pytestmark = pytest.mark.usefixtures("shared_traces")


def small_graph(path: Path, scale: float = 3.0) -> Path:
    """`y = twice(twice(float(ids)) * scale)`, `twice` being a local function."""
    twice = helper.make_function(
        "test",
        "Twice",
        ["x"],
        ["y"],
        [
            helper.make_node("Neg", ["x"], ["negative"]),
            helper.make_node("Sub", ["x", "negative"], ["y"]),
        ],
        [helper.make_opsetid("", 20)],
    )
    nodes = [
        helper.make_node("Cast", ["ids"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Twice", ["x"], ["inner"], domain="test"),
        helper.make_node("Mul", ["inner", "scale"], ["scaled"]),
        helper.make_node("Twice", ["scaled"], ["y"], domain="test"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["b", "s"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", "s"])],
        [helper.make_tensor("scale", TensorProto.FLOAT, [], [scale])],
    )
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("test", 1)]
    model = helper.make_model(graph, functions=[twice], opset_imports=imports, ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return path


def test_ranges_of_values_inside_and_outside_of_functions(tmp_path: Path) -> None:
    batches = [{"ids": np.array([[3, -2, 1]])}, {"ids": np.array([[-7], [2]])}]
    seen: list[int] = []
    ranges = measure_ranges(
        small_graph(tmp_path / "m.onnx"), batches, open_fp32, progress=seen.append
    )
    assert seen == [1, 2]
    assert ranges == {
        "x": ValueRange(-7, 3),
        inner_name("inner", "negative"): ValueRange(-3, 7),
        "inner": ValueRange(-14, 6),
        "scaled": ValueRange(-42, 18),
        inner_name("y", "negative"): ValueRange(-18, 42),
        "y": ValueRange(-84, 36),
    }
    assert ranges["y"].absmax == 84


@pytest.mark.parametrize("external", [False, True])
def test_ranges_of_a_model_are_those_of_its_values(
    make_checkpoint: Callable[..., Path], tmp_path: Path, external: bool
) -> None:
    checkpoint = open_checkpoint(make_checkpoint(num_hidden_layers=1))
    path = tmp_path / "model.onnx"
    export_onnx(checkpoint, path, external_data=external)
    rng = np.random.default_rng(0)
    mask = np.array([[1] * 13, [1] * 4 + [0] * 9])
    feeds = {"input_ids": rng.integers(0, 1616, (2, 13)), "attention_mask": mask}
    ranges = measure_ranges(path, [feeds], open_fp32)

    model = ir.load(path)
    names = [o.name for node in model.graph for o in node.outputs if o.name in ranges]
    assert len(names) > 15
    model.graph.outputs[:] = [o for node in model.graph for o in node.outputs if o.name in names]
    for value in model.graph.outputs:
        value.type = ir.TensorType(ir.DataType.FLOAT)
    shown = tmp_path / "shown.onnx"
    ir.save(model, shown)
    for name, value in zip(names, session(shown).run(names, feeds), strict=True):
        # All positions, the padded ones included.
        assert ranges[name].minimum == pytest.approx(float(value.min()), rel=1e-5, abs=1e-7), name
        assert ranges[name].maximum == pytest.approx(float(value.max()), rel=1e-5, abs=1e-7), name
    inside = [name for name in ranges if "/" in name]
    assert any(name.endswith("content_to_content") for name in inside)
    softmax = next(ranges[name] for name in inside if "Softmax" in name)
    assert softmax.minimum == 0.0
    assert 1 / 13 <= softmax.maximum <= 1.0


def test_padding_counts(tmp_path: Path) -> None:
    graph = small_graph(tmp_path / "m.onnx")
    ids = np.array([[1, 100]])
    feeds = {"ids": ids, "attention_mask": np.array([[1, 0]])}
    assert measure_ranges(graph, [feeds], open_fp32)["x"].maximum == 100


def test_unusable_inputs_are_named(tmp_path: Path) -> None:
    graph = small_graph(tmp_path / "m.onnx")
    with pytest.raises(CalibrationError, match="no calibration text"):
        measure_ranges(graph, [], open_fp32)
    with pytest.raises(CalibrationError, match=r"gone\.onnx: no such file"):
        measure_ranges(tmp_path / "gone.onnx", [], open_fp32)
    (tmp_path / "junk.onnx").write_bytes(b"\xff" * 50)
    with pytest.raises(CalibrationError, match="not an ONNX file"):
        measure_ranges(tmp_path / "junk.onnx", [], open_fp32)
    with pytest.raises(InputError, match=r"fails on inputs of shape .*ids.*\(3,\)"):
        measure_ranges(graph, [{"ids": np.array([1, 2, 3])}], open_fp32)


def test_nan_in_fp32_is_an_error_with_its_name(tmp_path: Path) -> None:
    graph = small_graph(tmp_path / "m.onnx", scale=float("nan"))
    with pytest.raises(CalibrationError, match="'scaled' is NaN"):
        measure_ranges(graph, [{"ids": np.array([[1]])}], open_fp32)


def test_an_overflow_in_fp32_has_an_infinite_range(tmp_path: Path) -> None:
    graph = small_graph(tmp_path / "m.onnx", scale=3e38)
    ranges = measure_ranges(graph, [{"ids": np.array([[5, 1]])}], open_fp32)
    assert ranges["scaled"].absmax == float("inf")
