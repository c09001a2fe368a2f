"""Faults in one layer of a graph: each is caught, and that layer is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx.helper import make_node
from onnx.numpy_helper import from_array, to_array
from safetensors.torch import load_file, save_file
from support.half_models import convert

from exporter.cli import main
from exporter.deberta.checkpoint import open_checkpoint
from exporter.graph.export import export_onnx
from exporter.inputs.data_sets import DataOptions
from exporter.parity.check import CompareOptions, compare_sides
from exporter.parity.limits import Level, Metric
from exporter.parity.result import ParityResult
from exporter.parity.sides import checkpoint_side, onnx_side
from exporter.pipeline.build_artifact import build
from exporter.pipeline.config import BuildConfig

pytestmark = pytest.mark.usefixtures("shared_traces")

LAYERS = 4
ENCODER = "deberta.encoder.layer"
Fault = Callable[[onnx.ModelProto, int], None]


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint) -> Path:  # type: ignore[no-untyped-def]
    folder: Path = make_checkpoint("sequence-classification", num_hidden_layers=LAYERS)
    return folder


@pytest.fixture(scope="module")
def graph(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "exported.onnx"
    export_onnx(open_checkpoint(checkpoint), path)
    return path


@pytest.fixture(scope="module")
def options(texts_file: Path, tmp_path_factory: pytest.TempPathFactory) -> CompareOptions:
    return CompareOptions(DataOptions((texts_file,)), cache=tmp_path_factory.mktemp("cache"))


def judge(
    checkpoint: Path, model: onnx.ModelProto, path: Path, options: CompareOptions
) -> ParityResult:
    onnx.save(model, path)
    return compare_sides(checkpoint_side(checkpoint), onnx_side(path), options)


def weight(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def attention(model: onnx.ModelProto, layer: int) -> tuple[int, onnx.NodeProto]:
    found = [
        (index, node) for index, node in enumerate(model.graph.node) if node.domain == "deb_export"
    ]
    return found[layer]


def flip_a_bit(model: onnx.ModelProto, layer: int) -> None:
    tensor = weight(model, f"{ENCODER}.{layer}.output.dense.weight")
    values = to_array(tensor).copy()
    values.view(np.int32)[3, 5] ^= 1 << 24  # an exponent bit: the value times or by 4
    tensor.CopyFrom(from_array(values, tensor.name))


def one_wrong_slot(model: onnx.ModelProto, layer: int) -> None:
    _, node = attention(model, layer)
    values = to_array(weight(model, node.input[3])).copy()
    middle = len(values) // 2
    values[middle + 1] = values[middle + 2]
    model.graph.initializer.append(from_array(values, "wrong_slots"))
    node.input[3] = "wrong_slots"


def transposed(model: onnx.ModelProto, layer: int) -> None:
    tensor = weight(model, f"{ENCODER}.{layer}.attention.output.dense.weight")
    tensor.CopyFrom(from_array(np.ascontiguousarray(to_array(tensor).T), tensor.name))


def mask_off_by_one(model: onnx.ModelProto, layer: int) -> None:
    """One layer sees the token behind the last: its mask, or the same shifted by one."""
    index, node = attention(model, layer)
    for name, values in (("zero", [0]), ("one", [1]), ("minus_one", [-1]), ("last_axis", [1])):
        model.graph.initializer.append(from_array(np.array(values, np.int64), f"fault.{name}"))
    nodes = (
        make_node("Slice", [node.input[4], "fault.zero", "fault.one", "fault.last_axis"], ["f.a"]),
        make_node(
            "Slice", [node.input[4], "fault.zero", "fault.minus_one", "fault.last_axis"], ["f.b"]
        ),
        make_node("Concat", ["f.a", "f.b"], ["f.shifted"], axis=1),
        make_node("Max", [node.input[4], "f.shifted"], ["f.mask"]),
    )
    for offset, item in enumerate(nodes):
        model.graph.node.insert(index + offset, item)
    attention(model, layer)[1].input[4] = "f.mask"


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize(
    "fault", [flip_a_bit, one_wrong_slot, transposed, mask_off_by_one], ids=lambda f: f.__name__
)
def test_a_fault_is_attributed_to_its_layer(
    fault: Fault,
    layer: int,
    checkpoint: Path,
    graph: Path,
    options: CompareOptions,
    tmp_path: Path,
) -> None:
    model = onnx.load(graph)
    fault(model, layer)
    result = judge(checkpoint, model, tmp_path / "wrong.onnx", options)
    assert not result
    assert result.first_fault is not None
    assert result.first_fault.subject == f"layer {layer}"
    assert result.first_fault.text
    sound = {"embeddings", *(f"layer {index}" for index in range(layer))}
    assert all(c.passed for c in result.checks if c.subject in sound)
    assert any(not c.passed for c in result.checks if c.level is Level.OUTPUT)


def test_a_graph_that_fails_while_it_runs_fails_the_check(
    checkpoint: Path,
    graph: Path,
    options: CompareOptions,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = onnx.load(graph)
    _, node = attention(model, 1)
    values = to_array(weight(model, node.input[3])).copy()
    values[: len(values) // 3] += 10_000  # the slots of long distances
    model.graph.initializer.append(from_array(values, "wrong_slots"))
    node.input[3] = "wrong_slots"
    result = judge(checkpoint, model, tmp_path / "wrong.onnx", options)
    assert not result
    failed = [case for case in result.cases if case.problem]
    assert 0 < len(failed) < len(result.cases)
    assert all("ONNX Runtime fails on inputs of shape" in (case.problem or "") for case in failed)
    assert str(tmp_path) not in "".join(result.failures)
    # Batches that it ran on have figures, and they are within the limits.
    assert all(check.passed for check in result.checks)
    sides = ("--reference", checkpoint, "--candidate", tmp_path / "wrong.onnx")
    given = [*sides, "--junit", tmp_path / "junit.xml", "--html", tmp_path / "page.html"]
    assert main(["parity", *map(str, given), "--markdown", str(tmp_path / "a.md")]) == 1
    out, _ = capsys.readouterr()
    name = "very different lengths"
    assert (
        f"FAIL generated lengths, {name!r}: ONNX Runtime fails on inputs of shape (5, 129)" in out
    )
    cases = ElementTree.parse(tmp_path / "junit.xml").iter("testcase")
    (case,) = (item for item in cases if item.get("name") == name)
    assert "ONNX Runtime fails" in str(next(case.iter("failure")).get("message"))
    # And where it fails on every input there is nothing but that.
    values[:] = 10_000
    weight(model, "wrong_slots").CopyFrom(from_array(values, "wrong_slots"))
    onnx.save(model, tmp_path / "wrong.onnx")
    assert main(["parity", *map(str, given), "--no-reference-cache"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "parity: FAIL"


def test_the_graph_without_a_fault_passes(
    checkpoint: Path, graph: Path, options: CompareOptions, tmp_path: Path
) -> None:
    result = judge(checkpoint, onnx.load(graph), tmp_path / "sound.onnx", options)
    assert result, result.failures
    assert result.first_fault is None
    assert len(result.layers.names) == LAYERS + 1


def rescaled(source: Path, target: Path, layer: int, factor: float) -> Path:
    """The same function with large values in the attention of one layer."""
    shutil.copytree(source, target)
    weights = load_file(target / "model.safetensors")
    prefix = f"{ENCODER}.{layer}.attention"
    for name in ("weight", "bias"):
        weights[f"{prefix}.self.value_proj.{name}"] *= factor
    weights[f"{prefix}.output.dense.weight"] /= factor
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.mark.parametrize("layer", [1, 3])
def test_an_fp16_overflow_is_attributed_to_its_layer(
    layer: int, checkpoint: Path, options: CompareOptions, tmp_path: Path
) -> None:
    path = tmp_path / "graph.onnx"
    source = rescaled(checkpoint, tmp_path / "large", layer, 2.0**20)
    export_onnx(open_checkpoint(source), path)
    # In fp32 it is the same model, by a factor that is a power of 2.
    assert compare_sides(checkpoint_side(checkpoint), checkpoint_side(source), options)
    assert judge(source, onnx.load(path), tmp_path / "fp32.onnx", options)
    plain, _ = convert(path, "fp16", None)  # no ranges: nothing is kept in fp32
    model = onnx.load(plain)
    for item in model.metadata_props:
        if item.key == "deb_export.precision":
            item.value = "fp16"
    result = judge(source, model, tmp_path / "overflow.onnx", options)
    assert not result
    assert result.first_fault is not None
    assert result.first_fault.subject == f"layer {layer}"
    assert result.first_fault.limit.metric is Metric.NON_FINITE


def test_scales_swapped_between_two_layers_are_attributed_to_the_first(
    checkpoint: Path, texts_file: Path, options: CompareOptions, tmp_path: Path
) -> None:
    # The attention's output of layer 2 is 256 times larger, and so is its scale.
    source = rescaled(checkpoint, tmp_path / "large", 2, 256.0)
    output = tmp_path / "int8"
    assert build(BuildConfig(source, output, precision="int8", targets=("onnx",))).passed
    model = onnx.load(output / "model.onnx")
    first, second = (
        weight(model, f"{ENCODER}.{layer}.attention.output.dense.input_scale") for layer in (1, 2)
    )
    one, two = to_array(first).copy(), to_array(second).copy()
    assert two / one > 8
    first.CopyFrom(from_array(two, first.name))
    second.CopyFrom(from_array(one, second.name))
    result = judge(source, model, tmp_path / "swapped.onnx", options)
    assert result.limits.precision == "int8"
    assert not result
    assert result.first_fault is not None
    assert result.first_fault.subject == "layer 1"
