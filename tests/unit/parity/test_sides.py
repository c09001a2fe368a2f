"""Any two models: checkpoints, artifacts, other exporters' graphs, engines, saved outputs."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers

from exporter.cli import main
from exporter.deberta.checkpoint import open_checkpoint
from exporter.errors import InputError
from exporter.graph.export import export_onnx
from exporter.graph.hidden_states import find_hidden_states, with_outputs
from exporter.inputs.data_sets import DataOptions
from exporter.model.profile import Range
from exporter.model.task import Task
from exporter.parity.check import CompareOptions, compare_sides
from exporter.parity.result import ParityResult
from exporter.parity.sides import ENGINE_LAYERS, open_side
from exporter.pipeline.build_artifact import build
from exporter.pipeline.config import BuildConfig

pytestmark = pytest.mark.usefixtures("shared_traces")

MakeCheckpoint = Callable[..., Path]


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint("sequence-classification", num_hidden_layers=3, conv_kernel_size=3)


@pytest.fixture(scope="module")
def stock(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as `torch.onnx.export` writes the `transformers` model."""
    path = tmp_path_factory.mktemp("stock") / "stock.onnx"
    model = transformers.DebertaV2ForSequenceClassification.from_pretrained(checkpoint).eval()

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.model(input_ids, attention_mask=attention_mask).logits
            return logits

    # A tensor each: the tracer takes inputs that are the same object for one.
    inputs = tuple(torch.ones(2, 7, dtype=torch.int64) for _ in range(2))
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Logits().eval(),
            inputs,
            path,
            dynamo=True,
            external_data=False,
            input_names=["input_ids", "attention_mask"],
            output_names=["scores"],
            dynamic_shapes=(axes, axes),
            verbose=False,
        )
    return path


@pytest.fixture(scope="module")
def ours(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as we export it."""
    path = tmp_path_factory.mktemp("ours") / "graph.onnx"
    export_onnx(open_checkpoint(checkpoint), path)
    return path


def judge(reference: Path, candidate: Path, data: Path, **options: Any) -> ParityResult:
    how = CompareOptions(DataOptions((data,)), **options)
    return compare_sides(open_side(reference), open_side(candidate), how)


def test_another_exporters_graph_is_judged_with_its_layers(
    checkpoint: Path, stock: Path, texts_file: Path
) -> None:
    result = judge(checkpoint, stock, texts_file)
    assert result, result.failures
    assert len(result.layers.names) == 4
    assert result.candidate.kind == "onnx"
    assert any("pytorch" in note for note in result.candidate.notes)
    # And the other way round.
    result = judge(stock, checkpoint, texts_file)
    assert result, result.failures


def test_a_fault_in_another_exporters_graph_is_found(
    checkpoint: Path, stock: Path, texts_file: Path, tmp_path: Path
) -> None:
    model = onnx.load(stock)
    name = "encoder.layer.1.output.LayerNorm.bias"
    bias = next(t for t in model.graph.initializer if t.name.endswith(name))
    values = onnx.numpy_helper.to_array(bias).copy()
    values[3] += 0.5
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    result = judge(checkpoint, tmp_path / "wrong.onnx", texts_file)
    assert result.first_fault is not None
    assert result.first_fault.subject == "layer 1"


def test_a_graph_whose_layers_have_no_names_is_judged_by_its_outputs(
    checkpoint: Path, stock: Path, texts_file: Path, tmp_path: Path
) -> None:
    model = onnx.load(stock)
    renamed = {t.name: f"weight_{i}" for i, t in enumerate(model.graph.initializer)}
    for tensor in model.graph.initializer:
        tensor.name = renamed[tensor.name]
    for node in model.graph.node:
        node.input[:] = [renamed.get(item, item) for item in node.input]
    onnx.save(model, tmp_path / "anonymous.onnx")
    result = judge(checkpoint, tmp_path / "anonymous.onnx", texts_file)
    assert result, result.failures
    assert result.layers.names == ()
    assert "no encoder.layer.N.output.LayerNorm.bias" in result.layers.reason
    assert result.layers.reason.startswith("candidate: ")


def test_fixed_sizes_and_other_types_are_taken_as_they_are(
    checkpoint: Path, stock: Path, texts_file: Path, tmp_path: Path
) -> None:
    model = onnx.load(stock)
    for item in model.graph.input:
        item.type.tensor_type.elem_type = onnx.TensorProto.INT32
        for dim, size in zip(item.type.tensor_type.shape.dim, (3, 48), strict=True):
            dim.dim_value = size
        cast = onnx.helper.make_node("Cast", [item.name], [f"{item.name}.wide"], to=7)
        for node in model.graph.node:
            node.input[:] = [f"{n}.wide" if n == item.name else n for n in node.input]
        model.graph.node.insert(0, cast)
    model.graph.ClearField("value_info")
    onnx.save(model, tmp_path / "fixed.onnx")
    result = judge(checkpoint, tmp_path / "fixed.onnx", texts_file)
    assert result, result.failures
    assert max(case.shape[1] for case in result.cases) == 48
    assert {case.shape[0] for case in result.cases} > {1, 3, 5}


@pytest.mark.parametrize("task", ["base", "multiple-choice", "question-answering", "masked-lm"])
def test_every_head_has_layers(
    task: str, make_artifact: Callable[[str], Path], texts_file: Path
) -> None:
    folder = make_artifact(task)
    source = json.loads((folder / "manifest.json").read_text())["source"]["folder"]
    result = judge(Path(source), folder, texts_file)
    assert result, result.failures
    assert len(result.layers.names) == 3
    assert result.candidate.kind == "artifact"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_asking_for_the_layers_changes_no_output(
    precision: str, checkpoint: Path, ours: Path, tmp_path: Path
) -> None:
    path = ours
    if precision != "fp32":
        path = tmp_path / "out" / "model.onnx"
        build(BuildConfig(checkpoint, path.parent, precision=precision, targets=("onnx",)))
    content = path.read_bytes()
    hidden = find_hidden_states(onnx.load_model_from_string(content))
    assert len(hidden.values) == 4
    generator = np.random.default_rng(1)
    feeds = {
        "input_ids": generator.integers(0, 1600, (3, 21)),
        "attention_mask": np.ones((3, 21), np.int64),
    }
    feeds["attention_mask"][1, 9:] = 0
    plain, more = (
        onnxruntime.InferenceSession(given, providers=["CPUExecutionProvider"]).run(None, feeds)
        for given in (content, with_outputs(content, hidden, ["logits"]))
    )
    assert len(more) == 5
    assert np.array_equal(plain[0], more[0])


def test_hidden_states_are_those_of_transformers(checkpoint: Path, ours: Path) -> None:
    content = ours.read_bytes()
    hidden = find_hidden_states(onnx.load_model_from_string(content))
    session = onnxruntime.InferenceSession(
        with_outputs(content, hidden, ["logits"]), providers=["CPUExecutionProvider"]
    )
    ids = torch.randint(4, 1600, (2, 13), generator=torch.Generator().manual_seed(3))
    feeds = {"input_ids": ids.numpy(), "attention_mask": np.ones((2, 13), np.int64)}
    model = transformers.DebertaV2Model.from_pretrained(checkpoint).eval()
    with torch.no_grad():
        states = model(ids, output_hidden_states=True).hidden_states
    found = session.run(list(hidden.values), feeds)
    assert len(states) == len(found) == 4
    for expected, actual in zip(states, found, strict=True):
        scale = expected.abs().max().item()
        assert np.abs(expected.numpy() - actual).max() <= 1e-5 * scale


class Engine:
    """Stands for an engine's session: the reference model, with what it was opened with."""

    name = "tensorrt-rtx"

    def __init__(self, path: Path, record: Any, shape: Any) -> None:
        from exporter.runtime.providers.torch_session import TorchSession

        self.inner = TorchSession(open_checkpoint(path.parent / "source", shape.task))

    def run(self, **feeds: Any) -> dict[str, np.ndarray]:
        return self.inner.run(**feeds)

    def close(self) -> None:
        self.inner.close()


def test_an_engine_is_judged_by_its_outputs(
    checkpoint: Path, texts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import struct

    from exporter.runtime.providers import tensorrt_session

    shutil.copytree(checkpoint, tmp_path / "source")
    plan = tmp_path / "bare.plan"
    plan.write_bytes(struct.pack("<4sI8xQ4B", b"ftrt", 0, 28, 11, 1, 0, 106))
    monkeypatch.setattr(tensorrt_session, "TensorRtSession", Engine)
    result = judge(checkpoint, plan, texts_file)
    assert result, result.failures
    assert result.layers.reason == f"candidate: {ENGINE_LAYERS}"
    assert result.limits.precision == "fp16"
    assert any("no manifest names it" in note for note in result.candidate.notes)


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_models_that_do_not_belong_together_are_refused(
    checkpoint: Path,
    stock: Path,
    make_checkpoint: MakeCheckpoint,
    texts_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = {
        "task: ": make_checkpoint("token-classification"),
        "vocabulary size: ": make_checkpoint("sequence-classification", vocab_size=1700),
        "number of labels: ": make_checkpoint("sequence-classification", num_labels=5),
    }
    for message, folder in other.items():
        arguments = ("--reference", checkpoint, "--candidate", folder, "--data", texts_file)
        code, out, err = call(capsys, "parity", *arguments)
        assert (code, out) == (2, "")
        assert message in err and "they are different models" in err
    named = {"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}}
    swapped = {"id2label": {"0": "yes", "1": "no"}, "label2id": {"yes": 0, "no": 1}}
    sides = [make_checkpoint("sequence-classification", **names) for names in (named, swapped)]
    with pytest.raises(InputError, match="the same in another order"):
        judge(*sides, texts_file)
    five = make_checkpoint("sequence-classification", num_labels=5)
    with pytest.raises(InputError, match="output scores has shape"):
        judge(five, stock, texts_file)
    vocabulary = Path(shutil.copytree(checkpoint, tmp_path / "vocabulary"))
    (vocabulary / "spm.model").write_bytes((vocabulary / "spm.model").read_bytes() + b"\0")
    with pytest.raises(InputError, match=r"spm\.model: that of .* is another one"):
        judge(checkpoint, vocabulary, texts_file)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/none.onnx"], "none.onnx: no such file or folder"),
        (["--candidate", "{tmp}/text.txt", "--reference", "{ck}"], "give a checkpoint or artifact"),
        (["{stock}"], "not an artifact, so name what is right with --reference"),
        ([], "name what to judge"),
        (["{ck}", "--candidate", "{stock}"], "name what to judge"),
        (["--reference", "{stock}", "--candidate", "{stock}"], "neither side says which model"),
        (["--reference", "{ck}", "--candidate", "{stock}", "--task", "x"], "--task x: unknown"),
        (["--reference", "{ck}", "--candidate", "{tmp}/bad.onnx"], "bad.onnx: not an ONNX file"),
        (["--reference", "{ck}", "--candidate", "{tmp}/bad.plan"], "bad.plan: not a TensorRT"),
        (["--reference", "{ck}", "--candidate", "{stock}", "--lengths", "0"], "--lengths: 0"),
        (["--reference", "{ck}", "--candidate", "{stock}", "--lengths", "x"], "--lengths 'x'"),
        (
            ["--reference", "{ck}", "--candidate", "{stock}", "--limits-of", "fp4"],
            "precision 'fp4': no parity limits",
        ),
    ],
)
def test_wrong_use_is_one_message(
    arguments: list[str],
    message: str,
    checkpoint: Path,
    stock: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "text.txt").write_text("a text\n")
    (tmp_path / "bad.onnx").write_bytes(b"\xff" * 64)
    (tmp_path / "bad.plan").write_bytes(b"not a plan")
    places = {"{tmp}": str(tmp_path), "{ck}": str(checkpoint), "{stock}": str(stock)}
    for key, place in places.items():
        arguments = [argument.replace(key, place) for argument in arguments]
    code, out, err = call(capsys, "parity", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert sum(line.startswith("error: ") for line in err.splitlines()) == 1


def test_the_cache_of_the_reference_knows_the_head(
    checkpoint: Path, texts_file: Path, tmp_path: Path
) -> None:
    for task in (Task.BASE, Task.SEQUENCE_CLASSIFICATION, Task.BASE):
        side = open_side(checkpoint, task)
        how = CompareOptions(DataOptions((texts_file,)), cache=tmp_path)
        result = compare_sides(side, side, how)
        assert result, result.failures
    assert result.cached == len(result.cases)


def test_lengths_end_where_the_models_do(
    checkpoint: Path,
    make_checkpoint: MakeCheckpoint,
    texts_file: Path,
    tmp_path: Path,
) -> None:
    """The model was trained for 160 tokens; its positions are relative, so that it takes more."""
    seq, artifact = Range(1, 16, 200), tmp_path / "out"
    build(BuildConfig(checkpoint, artifact, data=texts_file, seq=seq, targets=("onnx",)))
    ids = np.full((1, 220), 5)
    np.savez(tmp_path / "ids.npz", input_ids=ids)

    def longest(candidate: Path, **data: Any) -> int:
        how = CompareOptions(DataOptions(**{"files": (texts_file,), **data}))
        result = compare_sides(open_side(checkpoint), open_side(candidate), how)
        assert result, result.failures
        return max(case.shape[1] for case in result.cases)

    assert longest(artifact) == longest(artifact, lengths=(200,)) == 200
    with pytest.raises(InputError, match=r"--lengths: 201; the model takes 1 to 200 tokens"):
        longest(artifact, lengths=(201,))
    with pytest.raises(InputError, match="inputs of 220 tokens; the models take 200 at most"):
        longest(artifact, files=(tmp_path / "ids.npz",), lengths=())
    assert longest(checkpoint) == 160
    assert longest(checkpoint, lengths=(250,)) == 250
    assert longest(checkpoint, files=(tmp_path / "ids.npz",), lengths=()) == 220
    with pytest.raises(InputError, match="--lengths: 0; the model takes 1 or more tokens"):
        longest(checkpoint, lengths=(0,))
    absolute = make_checkpoint("sequence-classification", position_biased_input=True)
    with pytest.raises(InputError, match="--lengths: 161; the model takes 1 to 160 tokens"):
        judge_lengths = CompareOptions(DataOptions((texts_file,), lengths=(161,)))
        compare_sides(open_side(absolute), open_side(absolute), judge_lengths)
