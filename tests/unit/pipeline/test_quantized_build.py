"""`deb-export build --precision int8|fp8`, from a checkpoint to a judged artifact."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support.parity_results import judged_again

import exporter
from exporter.artifact.manifest import Manifest
from exporter.cli import main
from exporter.inputs.data_sets import DataOptions
from exporter.model.profile import Range
from exporter.pipeline.config import BuildConfig
from exporter.precision.quantized.quantization_options import QuantizationOptions
from exporter.precision.quantized.quantization_report import quantization_lines
from exporter.runtime.load import load

pytestmark = pytest.mark.usefixtures("shared_traces")

MakeCheckpoint = Callable[..., Path]
SEQ = Range(1, 16, 40)
WORDS = (
    "the film was long and I would not see it again a splendid little camera small light quick no "
    "works mostly battery weak point manual does help at all why stop after two minutes gets hot"
).split()


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    rng = np.random.default_rng(1)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 25))) for _ in range(72)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    path = tmp_path_factory.mktemp("data") / "texts.txt"
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def make(
    checkpoint: Path, output: Path, data: Path, precision: str = "int8", **options: Any
) -> Manifest:
    fields = BuildConfig.__dataclass_fields__
    own = {name: options.pop(name) for name in list(options) if name in fields}
    config = BuildConfig(
        model=checkpoint,
        output=output,
        precision=precision,
        targets=("onnx",),
        seq=SEQ,
        data=data,
        calibration_data=data,
        quantization=QuantizationOptions(**options),
        **own,
    )
    return exporter.build(config)


def command(checkpoint: Path, output: Path, *arguments: object) -> int:
    fixed = ["build", str(checkpoint), "--output", str(output), "--seq", str(SEQ)]
    fixed += ["--target", "onnx"]
    return main([*fixed, *map(str, arguments)])


def quantized_names(manifest: Manifest, number: str = "int8") -> list[str]:
    layers = manifest.graph["quantization"]["layers"]
    return [layer["name"].split("layer.")[1] for layer in layers if layer["choice"] == number]


@pytest.mark.parametrize(
    ("task", "precision", "rest"),
    [
        ("base", "int8", "fp32"),
        ("masked-lm", "int8", "fp16"),
        ("sequence-classification", "int8", "fp32"),
        ("token-classification", "fp8", "fp32"),
        ("question-answering", "int8", "bf16"),
        ("multiple-choice", "fp8", "fp16"),
    ],
)
def test_artifact(
    make_checkpoint: MakeCheckpoint,
    tmp_path: Path,
    data: Path,
    task: str,
    precision: str,
    rest: str,
) -> None:
    checkpoint = make_checkpoint(task, type_vocab_size=2)
    output = tmp_path / "out"
    manifest = make(checkpoint, output, data, precision, rest=rest)
    assert manifest.passed
    assert (manifest.precision, manifest.half) == (precision, None if rest == "fp32" else rest)
    facts = manifest.graph["quantization"]
    assert facts["format"] == precision
    assert manifest.weight_bits == {"int8": 7, "fp8": None}[precision]
    assert facts["onnxruntime_session"] == {}
    assert len(quantized_names(manifest, precision)) == 8
    assert facts["weight_bytes"] < 0.4 * facts["weight_bytes_before"]
    names = {path.name for path in output.iterdir()}
    assert names >= {"manifest.json", "model.onnx", "calibration.json", "parity.json"}
    assert not [path for path in tmp_path.iterdir() if path.name != "out"]

    model = ir.load(output / "model.onnx")
    assert model.metadata_props["deb_export.precision"] == precision
    stored = {tensor.name: tensor for tensor in onnx.load(output / "model.onnx").graph.initializer}
    kind = {"int8": onnx.TensorProto.INT8, "fp8": onnx.TensorProto.FLOAT8E4M3FN}[precision]
    ending = "embeddings.word_embeddings.weight.int8"
    words = stored.pop(next(name for name in stored if name.endswith(ending)))
    assert words.data_type == onnx.TensorProto.INT8
    assert (
        sum(tensor.data_type == kind and len(tensor.dims) == 2 for tensor in stored.values()) == 8
    )
    positions = "int8" if rest == "fp32" else "float"  # which is half then, as the attention is
    assert [item["choice"] for item in facts["tables"]] == ["int8", positions]
    assert 0 < facts["tables"][0]["output_error"] < 1e-4
    for node in model.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.inputs) > 2:
            assert not np.asarray(node.inputs[2].const_value.numpy(), np.float32).any()

    assert judged_again(output, DataOptions((data,)))
    session, exact = load(output), load(output, "torch")
    shape = (2, 3, 11) if task == "multiple-choice" else (2, 11)
    ids = np.random.default_rng(0).integers(4, 1600, shape)
    for name, expected in exact.run(input_ids=ids).items():
        found = session.run(input_ids=ids)[name]
        bound = {"int8": 0.05, "fp8": 0.25}[precision] * np.abs(expected).max()
        assert 0 < np.abs(found - expected).max() < bound


@pytest.fixture(scope="module")
def classifier(
    make_checkpoint: MakeCheckpoint, tmp_path_factory: pytest.TempPathFactory, data: Path
) -> tuple[Path, Path]:
    """A checkpoint and its int8 artifact, which tests must not change."""
    output = tmp_path_factory.mktemp("int8") / "out"
    checkpoint = make_checkpoint()
    assert make(checkpoint, output, data).passed
    return checkpoint, output


def test_a_table_serves_the_next_build_and_another_format(
    classifier: tuple[Path, Path], tmp_path: Path, data: Path
) -> None:
    checkpoint, first = classifier
    table = first / "calibration.json"
    output = tmp_path / "named"
    manifest = make(checkpoint, output, data, scale_table=table)
    assert manifest.graph["quantization"]["scale_table_reused"] is True
    assert (output / "model.onnx").read_bytes() == (first / "model.onnx").read_bytes()
    assert json.loads((output / "calibration.json").read_text()) == json.loads(table.read_text())

    # At the same place it is found without being named, for the same text alone.
    manifest = make(checkpoint, output, data, "fp8", force=True)
    assert manifest.passed and manifest.graph["quantization"]["scale_table_reused"] is True


def test_a_table_of_another_model_is_refused(
    classifier: tuple[Path, Path],
    make_checkpoint: MakeCheckpoint,
    tmp_path: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = classifier[1] / "calibration.json"
    other = make_checkpoint("sequence-classification", seed=8)
    fixed = ("--precision", "int8", "--calibration-data", data, "--scale-table")
    assert command(other, tmp_path / "out", *fixed, table) == 2
    assert "--scale-table: the scale table of another model" in capsys.readouterr().err
    broken = tmp_path / "broken.json"
    broken.write_text("{}")
    assert command(other, tmp_path / "out", *fixed, broken) == 2
    assert "not a scale table" in capsys.readouterr().err
    assert command(other, tmp_path / "out", *fixed, tmp_path / "none.json") == 2
    assert "cannot read the scale table" in capsys.readouterr().err
    options = (*fixed, table, "--calibration-method", "entropy")
    assert command(classifier[0], tmp_path / "out", *options) == 2
    assert "was made with minmax; leave one of the two out" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["broken.json"]


def test_layers_and_expressions_select(
    make_checkpoint: MakeCheckpoint,
    tmp_path: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    options = ["--precision", "int8", "--calibration-data", data, "--data", data]
    options += ["--quantize-layers", "1", "--quantize-include", "dense"]
    options += ["--quantize-exclude", "intermediate", "--quantize-exclude", "nope|1.output"]
    assert command(make_checkpoint(), output, *options) == 0
    out = capsys.readouterr().out
    assert "int8: 1 of 8 linear layers" in out
    manifest = json.loads((output / "manifest.json").read_text())
    layers = {
        layer["name"].split("layer.")[1]: (layer["choice"], layer["reason"])
        for layer in manifest["graph"]["quantization"]["layers"]
    }
    assert layers["1.attention.output.dense"] == ("int8", None)
    assert layers["0.output.dense"] == ("float", "layer is not selected")
    assert layers["1.attention.self.qkv"] == ("float", "no include expression matches")
    assert layers["1.intermediate.dense"] == ("float", "excluded by 'intermediate'")
    assert layers["1.output.dense"] == ("float", "excluded by 'nope|1.output'")
    assert main(["inspect", str(output)]) == 0
    assert "excluded by 'intermediate'" in capsys.readouterr().out


def test_a_budget_that_holds_runs_one_model(
    classifier: tuple[Path, Path],
    tmp_path: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint, first = classifier
    output = tmp_path / "out"
    options = ["--precision", "int8", "--calibration-data", data, "--data", data]
    options += ["--scale-table", first / "calibration.json", "--accuracy-budget", "0.5"]
    assert command(checkpoint, output, *options) == 0
    out = capsys.readouterr().out
    assert "accuracy budget 0.5: within" in out and "18 decisions changed" in out
    facts = json.loads((output / "manifest.json").read_text())["graph"]["quantization"]
    assert all(layer["cost"] is None for layer in facts["layers"])
    assert {layer["choice"] for layer in facts["layers"]} == {"int8"}
    assert facts["accuracy_budget"]["models_run"] == 1
    assert facts["accuracy_budget"]["units"] == []
    assert all(f"{layer['name']} " in out for layer in facts["layers"])
    # Nothing was learnt of a layer, so the table is as it was.
    assert (output / "calibration.json").read_bytes() == (first / "calibration.json").read_bytes()


def test_a_budget_brings_layers_back(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, data: Path
) -> None:
    checkpoint = make_checkpoint("base", type_vocab_size=2)  # judged by the error of its outputs
    whole = make(checkpoint, tmp_path / "a", data, accuracy_budget=0.9)
    before = whole.graph["quantization"]["accuracy_budget"]["before"]
    assert before["decisions"] == 0 and 0 < before["error"] < 0.9
    table = tmp_path / "a" / "calibration.json"
    budget = 0.9 * before["error"]
    manifest = make(checkpoint, tmp_path / "b", data, scale_table=table, accuracy_budget=budget)
    facts = manifest.graph["quantization"]
    assert manifest.passed and facts["accuracy_budget"]["within"]
    everything = [*facts["layers"], *facts["tables"]]
    assert all(isinstance(layer["cost"], float) for layer in everything)
    assert facts["accuracy_budget"]["models_run"] >= 11
    # What was learnt is in the table as well.
    sites = json.loads((tmp_path / "b" / "calibration.json").read_text())["sites"]
    assert all("int8_sensitivity" in entry for entry in sites.values())
    floats = [layer for layer in everything if layer["choice"] == "float"]
    assert 1 <= len(floats) <= 5
    assert {layer["reason"] for layer in floats} == {"costs more than the accuracy budget allows"}
    assert min(layer["cost"] for layer in floats) >= max(
        layer["cost"] for layer in everything if layer["choice"] == "int8"
    )
    assert facts["accuracy_budget"]["after"]["error"] <= budget
    lines = list(quantization_lines(facts))
    assert sum("costs more than" in line for line in lines) == len(floats)
    assert "accuracy budget" in lines[-1] and "relative error" in lines[-1]


def test_an_unreachable_budget_is_exit_code_1_with_the_best_result(
    classifier: tuple[Path, Path],
    tmp_path: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint, first = classifier
    output = tmp_path / "out"
    options = ["--precision", "int8", "--calibration-data", data, "--data", data]
    options += ["--scale-table", first / "calibration.json", "--accuracy-budget", "0"]
    assert command(checkpoint, output, *options) == 1
    out = capsys.readouterr().out
    assert "FAIL accuracy budget 0 not reached" in out and "the best found" in out
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["parity"]["passed"] is False
    budget = manifest["graph"]["quantization"]["accuracy_budget"]
    assert budget["within"] is False
    assert 0 < budget["after"]["kl"] < budget["before"]["kl"]
    with pytest.warns(UserWarning, match="outside its parity limits"):
        assert load(output)(["It works."])


def test_labels(
    make_checkpoint: MakeCheckpoint,
    tmp_path: Path,
    data: Path,
    texts: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint = make_checkpoint()
    labelled = tmp_path / "labelled.tsv"
    labelled.write_text("".join(f"{text}\t{i % 2}\n" for i, text in enumerate(texts)))
    options = ["--precision", "int8", "--data", data, "--calibration-data"]
    budget = ["--accuracy-budget", "0.9", "--calibration-labels"]
    output = tmp_path / "out"
    assert command(checkpoint, output, *options, labelled, *budget) == 0
    facts = json.loads((output / "manifest.json").read_text())["graph"]["quantization"]
    assert isinstance(facts["accuracy_budget"]["before"]["lost"], int)
    assert "correct ones lost" in capsys.readouterr().out

    wrong = tmp_path / "wrong.tsv"
    wrong.write_text("".join(f"{text}\tmaybe\n" for text in texts))
    for arguments, message in (
        ([*options, wrong, *budget], "label 'maybe': the model's labels are LABEL_0, LABEL_1"),
        ([*options, data, *budget], "line 1: expected text<TAB>label"),
        (
            [*options, labelled, "--calibration-labels"],
            "--calibration-labels: only --accuracy-budget has a use for them",
        ),
        (["--precision", "int8", *budget], "--calibration-labels: the demo's texts have none"),
    ):
        assert command(checkpoint, tmp_path / "c", *arguments) == 2
        assert message in capsys.readouterr().err
    tokens = make_checkpoint("token-classification", type_vocab_size=2)
    assert command(tokens, tmp_path / "c", *options, labelled, *budget) == 2
    assert "has not one class for each text" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()
