"""Quantized graphs end to end on small random models: calibration, numbers, kernels, fallback."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from support.checkpoints import write_checkpoint
from support.site_graphs import run, values_of

from calibration.calibration_error import CalibrationError
from calibration.formats import NumberFormat, round_trip, scale_of
from calibration.methods import Method
from calibration.placement import Placement, PlacementPolicy, place
from calibration.sites import SiteKind, find_sites
from calibration.table import ScaleTable
from calibration.tables import POSITIONS, find_tables
from calibration.texts import TextItem
from exporter.artifact.onnx_file import PLAN_KEY
from exporter.deberta.checkpoint import open_checkpoint
from exporter.errors import InputError
from exporter.graph.export import export_onnx
from exporter.graph.write import write_model
from exporter.precision.precision_plan import decode_plan
from exporter.precision.quantized import candidates as candidates_file
from exporter.precision.quantized.calibrate import calibrate, recipes_of
from exporter.precision.quantized.calibration_text import CalibrationText, prepare_text
from exporter.precision.quantized.candidates import Candidates
from exporter.precision.quantized.passes import quantize_graph, solve_sites
from exporter.precision.quantized.quantization_options import QuantizationOptions
from exporter.precision.quantized.quantize import QuantizedFile, quantize_file
from exporter.runtime.load import text_encoder

pytestmark = pytest.mark.usefixtures("shared_traces")

WORDS = "deberta.embeddings.word_embeddings"
VOCABULARY = (
    "the film was long and I would not see it again a splendid little camera small light quick no "
    "works mostly battery weak point manual does help at all why stop after two minutes gets hot"
).split()


class Case:
    """A checkpoint, its fp32 graph with a data file, and texts."""

    def __init__(self, folder: Path, task: str, labels: bool = False, **changes: Any) -> None:
        self.folder = folder
        checkpoint = open_checkpoint(write_checkpoint(folder / "checkpoint", task, **changes))
        self.graph = folder / "fp32.onnx"
        export_onnx(checkpoint, self.graph, external_data=True)
        self.shape = checkpoint.shape
        encoder = text_encoder(checkpoint.folder, checkpoint.task, 40)
        assert encoder is not None
        rng = np.random.default_rng(0)
        texts = [" ".join(rng.choice(VOCABULARY, rng.integers(1, 30))) for _ in range(60)]
        self.examples = [
            TextItem(text, (), index % 2 if labels else None) for index, text in enumerate(texts)
        ]
        self.text: CalibrationText = prepare_text(encoder, self.shape, self.examples)

    def quantize(self, name: str = "quantized.onnx", **changes: Any) -> tuple[Path, QuantizedFile]:
        options = {field: changes.pop(field) for field in ("table", "resume") if field in changes}
        number = changes.pop("number", NumberFormat.INT8)
        target = self.folder / name
        made = quantize_file(
            self.graph,
            target,
            self.shape,
            self.text,
            number,
            QuantizationOptions(**changes),
            model_hash="a" * 64,
            **options,
        )
        return target, made


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("case"), "sequence-classification")


def logits(path: Path, case: Case) -> np.ndarray:
    outputs = [run(path, dict(feeds))[0] for feeds in case.text.held_back.feeds]
    return np.concatenate(outputs).astype(np.float64)


def relative(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.square(one - other).sum() / np.square(other - other.mean(axis=0)).sum())


@pytest.mark.parametrize(("number", "limit"), [(NumberFormat.INT8, 1e-2), (NumberFormat.FP8, 1e-1)])
def test_outputs_stay_close_and_the_graph_is_valid(
    number: NumberFormat, limit: float, case: Case
) -> None:
    path, made = case.quantize(number=number)
    onnx.checker.check_model(str(path), full_check=True)
    kinds = Counter(node.op_type for node in onnx.load(str(path)).graph.node)
    assert kinds["QuantizeLinear"] == len(made.report.insertion.sites) == 8
    assert made.report.corrected == 8 and made.report.kept == ()
    assert relative(logits(path, case), logits(case.graph, case)) < limit
    left = {item.name for item in case.folder.iterdir()}
    assert left == {"checkpoint", "fp32.onnx", "fp32.onnx.data", "quantized.onnx"}


def test_onnx_runtime_takes_integer_kernels(case: Case) -> None:
    path, made = case.quantize()
    optimized = case.folder / "optimized.onnx"
    run(path, dict(case.text.held_back.feeds[0]), optimized)
    kinds = Counter(node.op_type for node in onnx.load(str(optimized)).graph.node)
    optimized.unlink()
    assert kinds["MatMulIntegerToFloat"] == len(made.report.insertion.sites) == 8
    assert kinds["DequantizeLinear"] == 0


def test_the_bias_correction_centres_each_layer(case: Case) -> None:
    """In the written graph, on the calibration text, and against the same graph without it."""
    _, made = case.quantize()
    recipes = recipes_of(made.table, find_sites(ir.load(case.graph)))
    sites = find_sites(ir.load(case.graph))
    feeds = dict(case.text.batches.feeds[0])
    for site in sites[:2]:  # inputs of the first layer's are not yet disturbed much
        recipe = recipes[site.name]
        model = ir.load(case.graph)
        placement = place(PlacementPolicy(), sites)
        solved = solve_sites(ir.load(case.graph), placement, recipes, NumberFormat.INT8)[site.name]
        exact = values_of(case.graph, [site.activation], feeds)[site.activation]
        weight = model.graph.initializers[site.weight].const_value.numpy()
        factors = np.ones(site.in_features) if recipe.factors is None else recipe.factors
        x = round_trip(
            (exact / factors).astype(np.float32),
            scale_of(recipe.threshold, NumberFormat.INT8),
            NumberFormat.INT8,
        )
        smoothed = (weight * factors[:, None]).astype(np.float32)
        if site.kind is SiteKind.QKV:  # its values carry the factors of the attention's output
            other = recipes[sites[1].name].factors
            if other is not None:
                smoothed[:, -len(other) :] /= other
        w = round_trip(
            smoothed, scale_of(solved.scales.weight, NumberFormat.INT8), NumberFormat.INT8
        )
        wanted = (exact / factors) @ smoothed
        error = x @ w - wanted
        before = np.abs(error.mean(axis=0)).mean()
        after = np.abs((error + solved.shift).mean(axis=0)).mean()
        # One batch of several, so the mean is not exactly that of all.
        assert after < 0.6 * before


def test_a_table_serves_again_and_in_another_format(case: Case) -> None:
    first, made = case.quantize("first.onnx")
    assert not made.reused
    table_file = case.folder / "calibration.json"
    made.table.save(table_file)
    table = ScaleTable.load(table_file)
    table_file.unlink()
    again, reused = case.quantize("again.onnx", table=table)
    assert reused.reused
    np.testing.assert_array_equal(logits(first, case), logits(again, case))
    fp8, other = case.quantize("fp8.onnx", table=table, number=NumberFormat.FP8)
    assert other.reused and other.report.number is NumberFormat.FP8
    assert relative(logits(fp8, case), logits(case.graph, case)) < 1e-1
    for path in (first, again, fp8):
        path.unlink()


def test_a_placement_is_followed(case: Case) -> None:
    path, made = case.quantize(layers="1", exclude=(r"intermediate",))
    names = [name.split("layer.")[1] for name in made.report.insertion.sites]
    assert names == ["1.attention.self.qkv", "1.attention.output.dense", "1.output.dense"]
    assert len(made.report.kept) == 5
    stored = {item.name: item for item in onnx.load(str(path)).graph.initializer}
    assert stored["deberta.encoder.layer.1.intermediate.dense.weight"].data_type == 1
    assert "deberta.encoder.layer.1.output.dense.weight.int7" in stored


def test_a_budget_brings_back_what_hurts(case: Case) -> None:
    path, made = case.quantize(accuracy_budget=0.9)
    assert made.sensitivity is not None and made.sensitivity.within
    assert made.sensitivity.measurements == 1 and made.sensitivity.fallback == ()
    before = made.sensitivity.before
    assert before.decisions == len(case.text.held_back_texts) and before.kl > 0

    path, made = case.quantize(accuracy_budget=before.kl * 0.8)
    assert made.sensitivity is not None and made.sensitivity.within
    units = [unit.unit for unit in made.sensitivity.units]
    assert made.sensitivity.measurements >= 11 and len(units) == 10  # two of them tables
    assert {WORDS, POSITIONS} < set(units)
    fallback = made.sensitivity.fallback
    assert 1 <= len(fallback) <= 5
    assert (made.tables[WORDS] is None) == (WORDS in fallback)
    fallback = tuple(name for name in fallback if name not in (WORDS, POSITIONS))
    assert [unit.cost for unit in made.sensitivity.units] == sorted(
        (unit.cost for unit in made.sensitivity.units), reverse=True
    )
    assert set(made.report.insertion.sites).isdisjoint(fallback)
    assert len(made.report.insertion.sites) + len(fallback) == 8
    entry = made.table.sites[fallback[0]]["int8_sensitivity"]
    assert isinstance(entry, dict) and entry["fallback"] is True
    # The graph on disk is the one that was judged.
    exact, found = logits(case.graph, case), logits(path, case)
    log_p = exact - np.logaddexp.reduce(exact, axis=1, keepdims=True)
    log_q = found - np.logaddexp.reduce(found, axis=1, keepdims=True)
    kl = float((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean())
    assert kl == pytest.approx(made.sensitivity.after.kl, rel=1e-3)


def test_an_unreachable_budget_writes_the_best_graph_and_says_so(case: Case) -> None:
    path, made = case.quantize(accuracy_budget=0.0)
    assert made.sensitivity is not None and not made.sensitivity.within
    assert made.sensitivity.after.kl <= made.sensitivity.before.kl
    assert len(made.sensitivity.fallback) <= 5  # of 8 linear layers and 2 tables
    assert relative(logits(path, case), logits(case.graph, case)) < 1e-2


def test_a_table_falls_back_like_a_layer(case: Case) -> None:
    model = ir.load(case.graph)
    sites = find_sites(model)
    table = calibrate(case.graph, sites, case.text.batches, QuantizationOptions(), "a" * 64)
    recipes = recipes_of(table, sites)
    placement = replace(place(PlacementPolicy(), sites), tables=find_tables(model))
    with Candidates(case.graph, case.shape, placement, recipes, NumberFormat.INT8) as candidates:
        for kept in ((WORDS,), (POSITIONS,), (WORDS, POSITIONS)):
            made, report = candidates.make(placement.keep(kept, "costs too much"))
            assert dict(report.kept) == dict.fromkeys(kept, "costs too much")
            assert (f"{WORDS}.weight" in made.graph.initializers) == (WORDS in kept)
            plan = decode_plan(made.metadata_props[PLAN_KEY], "")
            assert (f"{WORDS}.weight" in plan.tables) == (WORDS not in kept)
            assert len(plan.tables) == (WORDS not in kept) + 4 * (POSITIONS not in kept)
    _, off = case.quantize(quantize_embeddings=False)
    assert set(off.tables.values()) == {None} and off.report.tables == {}


def test_a_layer_back_in_float_has_its_bias_back(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The values' part of a folded bias is stored, and its correction is another number."""
    monkeypatch.setattr(candidates_file, "EMBEDDED_BELOW", 16)  # or small biases go by
    sites = find_sites(ir.load(case.graph))
    table = calibrate(case.graph, sites, case.text.batches, QuantizationOptions(), "a" * 64)
    recipes = recipes_of(table, sites)
    recipes = {  # each output layer folded, whatever calibration would choose
        name: replace(recipe, factors=np.linspace(0.5, 2, len(recipe.mean), dtype=np.float32))
        if name.endswith("attention.output.dense")
        else recipe
        for name, recipe in recipes.items()
    }
    placement = place(PlacementPolicy(), sites)
    qkv = next(site for site in sites if site.name.endswith("qkv"))
    alone = placement.keep([qkv.name], "costs too much")

    def bias(candidates: Candidates, of: Placement) -> NDArray[np.float32]:
        tensor = candidates.make(of)[0].graph.initializers[qkv.bias].const_value
        assert tensor is not None
        return tensor.numpy().copy()

    given = (case.graph, case.shape, placement, recipes, NumberFormat.INT8)
    with Candidates(*given) as candidates:
        right = bias(candidates, alone)
    with Candidates(*given) as candidates:
        corrected = bias(candidates, placement)
        np.testing.assert_array_equal(bias(candidates, alone), right)
        assert np.abs(corrected - right).max() > 0


def test_labels_are_counted(tmp_path: Path) -> None:
    case = Case(tmp_path, "sequence-classification", labels=True)
    _, made = case.quantize(accuracy_budget=0.5)
    assert made.sensitivity is not None
    damage = made.sensitivity.before
    assert damage.lost is not None and abs(damage.lost) <= damage.changed


@pytest.mark.parametrize("task", ["masked-lm", "question-answering", "multiple-choice", "base"])
def test_every_task(task: str, tmp_path: Path) -> None:
    case = Case(tmp_path, task)
    path, made = case.quantize(accuracy_budget=0.5)
    assert made.sensitivity is not None and made.sensitivity.within
    assert (made.sensitivity.before.decisions == 0) == (task == "base")
    for feeds in case.text.held_back.feeds:
        for one, other in zip(run(path, dict(feeds)), run(case.graph, dict(feeds)), strict=True):
            assert one.shape == other.shape and np.isfinite(one).all()


def test_labels_need_classes(tmp_path: Path) -> None:
    case = Case(tmp_path, "token-classification", labels=True)
    with pytest.raises(InputError, match="one class for each text"):
        case.quantize(accuracy_budget=0.5)


def test_a_silent_input_stays_in_float(case: Case) -> None:
    """The inputs of a layer are zero on all calibration text: no scale would hold for others."""
    model = ir.load(case.graph)
    site = next(site for site in find_sites(model) if site.name.endswith("0.output.dense"))
    scaled = ir.node("Mul", [matmul_input(model, site.weight), zero_of(model)], name="silence")
    scaled.outputs[0].name = "silent"
    consumer = next(usage.node for usage in model.graph.initializers[site.weight].uses())
    model.graph.insert_before(consumer, [scaled])
    consumer.replace_input_with(0, scaled.outputs[0])
    silent = case.folder / "silent.onnx"
    write_model(model, silent, external_data=True)
    made = quantize_file(
        silent,
        case.folder / "quantized.onnx",
        case.shape,
        case.text,
        NumberFormat.INT8,
        QuantizationOptions(),
        model_hash="b" * 64,
    )
    assert [(name.split("layer.")[1], reason) for name, reason in made.report.kept] == [
        ("0.output.dense", "its input is zero on all calibration text")
    ]
    for path in case.folder.glob("silent*"):
        path.unlink()


def matmul_input(model: ir.Model, weight: str) -> ir.Value:
    (usage,) = model.graph.initializers[weight].uses()
    value = usage.node.inputs[0]
    assert value is not None
    return value


def zero_of(model: ir.Model) -> ir.Value:
    tensor = ir.tensor(np.zeros((), np.float32), name="zero")
    value = ir.Value(name="zero", type=ir.TensorType(tensor.dtype), const_value=tensor)
    value.shape = ir.Shape(())
    model.graph.initializers["zero"] = value
    return value


def test_broken_entries_are_refused(case: Case) -> None:
    sites = find_sites(ir.load(case.graph))
    table = calibrate(case.graph, sites, case.text.batches, QuantizationOptions(), "a" * 64)
    good = dict(table.sites[sites[0].name])
    for field, value in (
        ("mean", "no base64"),
        ("mean_square", good["int8_mean_error"][:8]),  # type: ignore[index]
        ("int8_threshold", float("nan")),
        ("int8_error", "0.1"),
        ("strength", True),
    ):
        broken = table.with_sites({sites[0].name: {**good, field: value}})
        with pytest.raises(CalibrationError, match=f"{sites[0].name} is broken"):
            recipes_of(broken, sites)
    del good["largest"]
    with pytest.raises(CalibrationError, match="is broken"):
        recipes_of(table.with_sites({sites[0].name: good}), sites)


@pytest.mark.parametrize("number", [NumberFormat.INT8, NumberFormat.FP8])
@pytest.mark.parametrize(("method", "both"), [("minmax", False), ("minmax", True), ("mse", False)])
def test_an_edited_amax_is_the_scale_in_the_graph(
    number: NumberFormat, method: Method, both: bool, case: Case, tmp_path: Path
) -> None:
    _, made = case.quantize(method=method)
    file = tmp_path / "calibration.json"
    made.table.save(file)
    assert ScaleTable.load(file).to_dict() == made.table.to_dict()
    plain, _ = case.quantize(number=number, table=ScaleTable.load(file))
    before = input_scales(plain)

    data = json.loads(file.read_text())
    names = list(data["tensors"])
    edited = names[1::3]
    assert len({data["sites"][name]["factors"] is None for name in edited}) == 2  # and smoothed
    for name in edited:
        item = data["tensors"][name]
        item["amax"] *= 0.7
        item["int8_scale"] *= 0.7 if both else 1
    file.write_text(json.dumps(data))
    table = ScaleTable.load(file)
    path, made = case.quantize(number=number, table=table)
    scales = input_scales(path)
    for name in names:
        amax = np.float32(data["tensors"][name]["amax"])
        wanted = amax / np.float32(number.largest) if name in edited else before[name]
        assert scales[name] == wanted, name
    # The table that such a build writes says the same again.
    made.table.save(file)
    assert ScaleTable.load(file).to_dict() == table.to_dict()


def input_scales(path: Path) -> dict[str, np.ndarray]:
    stored = onnx.load(str(path)).graph.initializer
    end = ".input_scale"
    return {
        item.name.removesuffix(end): onnx.numpy_helper.to_array(item)
        for item in stored
        if item.name.endswith(end)
    }


def test_a_report_that_does_not_fit_is_a_defect(case: Case) -> None:
    sites = find_sites(ir.load(case.graph))
    placement = place(PlacementPolicy(), sites)
    with pytest.raises(KeyError):
        quantize_graph(ir.load(case.graph), placement, {}, {}, NumberFormat.INT8)
