"""Tables in int8: each row on its own, both forms equal in ONNX Runtime at every level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from support.site_graphs import export_random, feeds

from calibration.table_forms import TableForm, pack, store_tables
from calibration.tables import (
    TableRounding,
    column_scale,
    find_tables,
    positions_error,
    quantized_rows,
    row_scale,
    word_feedback,
    words_error,
)
from exporter.deberta.checkpoint import open_checkpoint
from exporter.graph.write import write_model
from exporter.inputs.cases import ParityCase
from exporter.model.task import Task
from exporter.parity.stagewise import judge_stages, run_stages, stage_names
from exporter.precision.emulate import emulated_model, stored_positions, stored_rows
from exporter.precision.precision_plan import PrecisionPlan

pytestmark = pytest.mark.usefixtures("shared_traces")

LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")
TASK = Task.SEQUENCE_CLASSIFICATION
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {"type_vocab_size": 0},
    "odd width": {"embedding_size": 50, "vocab_size": 95, "type_vocab_size": 0},
    "types and positions": {"type_vocab_size": 2, "position_biased_input": True},
}


def table(rows: int = 37, width: int = 22) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)


def test_a_row_says_nothing_about_another() -> None:
    rows = table()
    before = quantized_rows(rows)
    rows[3] = 0
    rows[5] *= 2.0**90
    rows[7] *= 2.0**-80
    after, scale = quantized_rows(rows), row_scale(rows)
    assert (after[3] == 0).all() and scale[3] > 0
    others = [row for row in range(len(rows)) if row != 3]
    np.testing.assert_array_equal(after[others], before[others])
    assert np.abs(after).max(axis=1)[others].min() == 127
    assert (np.abs(after * scale - rows) <= 0.5001 * scale).all()


def test_the_model_of_the_plan_rounds_alike() -> None:
    import torch

    rows = table(50, 33)
    rows[4] = 0
    expected = quantized_rows(rows) * row_scale(rows)
    np.testing.assert_array_equal(stored_rows(torch.from_numpy(rows)).numpy(), expected)
    positions = rows.reshape(2, 25, 33)
    positions[:, :, 7] = 0
    scale = column_scale(positions)
    scaled = positions / scale
    expected = quantized_rows(scaled) * row_scale(scaled) * scale
    np.testing.assert_array_equal(stored_positions(torch.from_numpy(positions)).numpy(), expected)


def test_errors_count_rows_as_often_as_they_are_read() -> None:
    rows = table()
    rows[1] = 0
    rows[1, 0], rows[1, 1:] = 127, 0.5  # rounds to nothing
    alone = np.zeros(len(rows), np.int64)
    alone[1] = 3
    expected = np.square(rows[1, 1:]).sum() / np.square(rows[1]).sum()
    assert words_error(rows, alone) == pytest.approx(expected, rel=1e-6)
    assert words_error(np.zeros((4, 4), np.float32), np.ones(4, np.int64)) == 0


def test_a_large_channel_of_positions_costs_the_others_nothing() -> None:
    """A query may multiply it by as small numbers: relative to its own values it counts alike."""
    positions = table(2 * 40, 32).reshape(2, 40, 32)
    before = positions_error(positions)
    positions[0, :, 5] *= 64.0
    positions[1, :, 9] *= 2.0**-10
    assert positions_error(positions) == before < 1e-4
    positions[1, :, 9] = 0
    assert positions_error(positions) < 1.1 * before
    assert positions_error(np.zeros((2, 3, 4), np.float32)) == 0


@pytest.mark.parametrize("width", [1, 4, 7, 22])
def test_packed_digits_are_the_values(width: int) -> None:
    values = np.random.default_rng(1).integers(-127, 128, (300, width)).astype(np.int8)
    values[:2] = [[-127], [127]]
    whole = pack(values).astype(np.int64)
    parts = [((whole >> shift) & 255) - 128 for shift in (0, 8, 16)] + [whole >> 24]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1)[:, :width], values)


@pytest.fixture(scope="module", params=SHAPES)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    return export_random(tmp_path_factory.mktemp("c"), TASK, **SHAPES[request.param])


def stored(path: Path, form: TableForm, target: Path) -> PrecisionPlan:
    model = ir.load(path)
    plan = PrecisionPlan(tables=store_tables(model, find_tables(model), form))
    write_model(model, target)
    onnx.checker.check_model(str(target), full_check=True)
    return plan


def at_level(path: Path, level: str, inputs: dict[str, Any]) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run(["embedded"], inputs)[0]
    return found


def test_both_forms_are_equal_at_every_level(
    exported: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """To the last bit, and to the table's own values."""
    path, fields = exported
    inputs = feeds(fields, TASK, batch=3, length=17)
    words = find_tables(ir.load(path))[0].weights[0]
    values = ir.load(path).graph.initializers[words].const_value.numpy()
    feedback = word_feedback(ir.load(path), words)
    assert feedback is not None
    expected = (quantized_rows(values, feedback) * row_scale(values))[inputs["input_ids"]]
    for form in TableForm:
        model, target = ir.load(path), tmp_path / f"{form.value}.onnx"
        (gather,) = (usage.node for usage in model.graph.initializers[words].uses())
        name = gather.outputs[0].name
        store_tables(model, find_tables(model), form)
        (value,) = (v for node in model.graph for v in node.outputs if v.name == name)
        (copy,) = ir.node("Identity", [value], name="copy").outputs
        copy.name, copy.type = "embedded", ir.TensorType(ir.DataType.FLOAT)
        assert copy.producer() is not None
        model.graph.append(copy.producer())  # type: ignore[arg-type]
        model.graph.outputs.append(copy)
        write_model(model, target)
        for level in LEVELS:
            np.testing.assert_array_equal(at_level(target, level, inputs), expected)


@pytest.mark.parametrize("form", list(TableForm))
def test_a_stored_graph_keeps_to_its_plan_and_a_fault_does_not(
    form: TableForm, exported: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    path, fields = exported
    target = tmp_path / "stored.onnx"
    plan = stored(path, form, target)
    inputs = feeds(fields, TASK, batch=3, length=17)
    checkpoint = open_checkpoint(path.parent, TASK)
    mask = inputs["attention_mask"]
    mask[0, :] = 1
    case = ParityCase("", inputs, ())
    model, names = emulated_model(checkpoint, plan), stage_names(checkpoint)

    def failures(graph: Path) -> list[str]:
        values = run_stages(graph, checkpoint.shape, (case,), rounded=False)
        judged = judge_stages(model, plan, names, values, lambda message: None)
        return [stage.failure for stage in judged if stage.failure]

    assert failures(target) == []
    first = int(inputs["input_ids"][0, 0])

    def spoiled(ending: str, change: Callable[[NDArray[Any]], None]) -> list[str]:
        faulty = onnx.load(str(target))
        (tensor,) = (t for t in faulty.graph.initializer if t.name.endswith(ending))
        array = onnx.numpy_helper.to_array(tensor).copy()
        change(array)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
        onnx.save(faulty, tmp_path / "faulty.onnx")
        return failures(tmp_path / "faulty.onnx")

    other = next(row for row in range(len(mask)) if row != first)

    def stale(array: NDArray[Any]) -> None:
        array[first] = array[other]

    def scaled(array: NDArray[Any]) -> None:
        array[first] *= np.float32(1.03)

    assert spoiled(f"word_embeddings.weight.{form.value}", stale)[0].startswith("embeddings:")
    found = spoiled("word_embeddings.weight_scale", scaled)
    # LayerNorm right behind the table divides a row's scale out again: there it is no fault.
    alone = not fields["type_vocab_size"] and not fields["position_biased_input"]
    assert alone == (found == []), found


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("form", list(TableForm))
def test_a_tied_matrix_is_stored_once(form: TableForm, legacy: bool, tmp_path: Path) -> None:
    changes = {"type_vocab_size": 0, "legacy": legacy, "tie_word_embeddings": True}
    path, fields = export_random(tmp_path, Task.MASKED_LM, **changes)
    target = tmp_path / "stored.onnx"
    plan = stored(path, form, target)
    tensors = onnx.load(str(path)).graph.initializer
    assert len([t for t in tensors if len(t.dims) == 2 and 97 in t.dims]) == 1
    tensors = onnx.load(str(target)).graph.initializer
    held = {t.name: t.data_type for t in tensors if len(t.dims) == 2 and 97 in t.dims}
    kind = {TableForm.INT8: onnx.TensorProto.INT8, TableForm.PACKED: onnx.TensorProto.INT32}[form]
    assert sorted(held.values()) == sorted((kind, onnx.TensorProto.FLOAT))  # and its scales
    checkpoint = open_checkpoint(tmp_path, Task.MASKED_LM)
    cases = (ParityCase("", feeds(fields, Task.MASKED_LM), ()),)
    values = run_stages(target, checkpoint.shape, cases, rounded=False)
    for right in (plan, PrecisionPlan()):
        model, names = emulated_model(checkpoint, right), stage_names(checkpoint)
        judged = judge_stages(model, right, names, values, lambda message: None)
        wrong = [stage.name for stage in judged if stage.failure]
        assert ("output logits" in wrong, "embeddings" in wrong) == (right is not plan,) * 2


def test_a_plan_of_another_model_is_refused(exported: tuple[Path, dict[str, Any]]) -> None:
    checkpoint = open_checkpoint(exported[0].parent, TASK)
    for name in ("deberta.other.weight", "deberta.encoder.layer.99.attention.self.pos_key"):
        with pytest.raises(ValueError, match=f"the plan has {name}"):
            emulated_model(checkpoint, PrecisionPlan(tables={name: TableRounding.NEAREST}))


def test_a_graph_without_the_table_is_a_defect(exported: tuple[Path, dict[str, Any]]) -> None:
    model = ir.load(exported[0])
    absent = replace(find_tables(model)[0], weights=("none",))
    with pytest.raises(RuntimeError, match="no table none"):
        store_tables(model, [absent], TableForm.INT8)
