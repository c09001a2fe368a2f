"""Whole builds: what the folder holds, what the manifest says, what a fault does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from exporter import BuildConfig, Range, build, load
from exporter.artifact.files import verify_files
from exporter.artifact.manifest import read_manifest
from exporter.cli import main
from exporter.errors import InputError, MissingDependencyError
from exporter.graph import export as export_module
from exporter.model.task import Task
from exporter.parity import check
from exporter.parity.limits import Limits, Metric, limits_for
from exporter.parity.runners import TorchRunner
from exporter.parity.verdict import Noise
from exporter.pipeline import build_artifact as pipeline_module

MakeCheckpoint = Callable[..., Path]


@pytest.fixture
def config(make_checkpoint: MakeCheckpoint, texts_file: Path, tmp_path: Path) -> BuildConfig:
    folder = make_checkpoint("sequence-classification")
    return BuildConfig(model=folder, output=tmp_path / "out", data=texts_file, targets=("onnx",))


def test_the_folder_holds_what_the_manifest_says(make_artifact: Callable[[str], Path]) -> None:
    folder = make_artifact("sequence-classification")
    names = {path.name for path in folder.iterdir()}
    tokenizer = {"spm.model", "tokenizer_config.json"}
    ours = {"manifest.json", "model.onnx", "parity.json", "reference.safetensors"}
    assert names == {*ours, "config.json", *tokenizer}
    manifest = read_manifest(folder)
    assert verify_files(folder, manifest.files) == ()
    assert {item.path for item in manifest.files} == names - {"manifest.json"}
    assert {item.path for item in manifest.source.files} == {
        "config.json",
        "model.safetensors",
        "spm.model",
    }
    assert verify_files(Path(manifest.source.folder), manifest.source.files) == ()
    assert manifest.task == "sequence-classification"
    assert manifest.inputs == ("input_ids", "attention_mask")
    assert manifest.outputs == ("logits",)
    assert manifest.labels == {0: "LABEL_0", 1: "LABEL_1"}
    assert manifest.seq == Range(1, 128, 160)
    assert manifest.graph["attention_nodes"] == manifest.model["num_hidden_layers"] == 2
    assert {"torch", "onnxruntime", "python"} <= set(manifest.environment)
    report = json.loads((folder / manifest.parity.report).read_text())
    assert report["passed"] is True
    assert report["limits"]["metrics"] == list(manifest.limits)
    texts = report["data_sets"][1]
    assert texts["decisions"]["logits"]["decisions"] > 8
    assert texts["layers"].keys() == {"embeddings", "layer 0", "layer 1"}


def test_the_graph_names_the_vocabulary_it_belongs_to(
    make_artifact: Callable[[str], Path],
) -> None:
    folder = make_artifact("sequence-classification")
    graph = onnx.load(folder / "model.onnx", load_external_data=False)
    metadata = {item.key: item.value for item in graph.metadata_props}
    hashes = {item.path: item.sha256 for item in read_manifest(folder).files}
    assert metadata["deb_export.vocabulary_sha256"] == hashes["spm.model"]


def test_options_reach_the_artifact(config: BuildConfig, tmp_path: Path) -> None:
    steps: list[str] = []
    changed = replace(config, seq=Range(4, 9, 40), batch=Range(2, 2, 3), external_data=True)
    manifest = build(changed, steps.append)
    assert (manifest.seq, manifest.batch) == (Range(4, 9, 40), Range(2, 2, 3))
    assert "model.onnx.data" in {item.path for item in manifest.files}
    assert any("parity" in step for step in steps)
    with load(tmp_path / "out") as session, pytest.warns(UserWarning, match="cut to 40 tokens"):
        session(["word " * 100])


def test_another_head_of_the_same_encoder(config: BuildConfig) -> None:
    with pytest.warns(UserWarning, match="base does not use classifier.bias, classifier.weight"):
        manifest = build(replace(config, task=Task.BASE))
    assert "pooler.dense.weight" in manifest.source.notes[0]
    assert (manifest.task, manifest.outputs) == ("base", ("last_hidden_state",))
    assert manifest.passed


def tampered(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], None]) -> None:
    """Make the export write a graph that `change` has been at."""
    export = export_module.export_onnx

    def wrong(checkpoint: Any, path: Path, **options: Any) -> Any:
        summary = export(checkpoint, path, **options)
        model = onnx.load(path)
        change(model)
        onnx.save(model, path)
        return summary

    monkeypatch.setattr(export_module, "export_onnx", wrong)


def initializer(model: Any, condition: Callable[[Any], bool]) -> Any:
    return next(tensor for tensor in model.graph.initializer if condition(tensor))


def change_a_weight(model: Any) -> None:
    tensor = initializer(model, lambda t: list(t.dims) == [24, 72])
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[3, 50] += 0.5
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def swap_two_slots(model: Any) -> None:
    tensor = initializer(
        model, lambda t: t.data_type == onnx.TensorProto.INT32 and len(t.dims) == 1
    )
    values = onnx.numpy_helper.to_array(tensor).copy()
    middle = len(values) // 2
    values[[middle + 1, middle + 2]] = values[[middle + 2, middle + 1]]
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def drop_the_mask(model: Any) -> None:
    """Every use of the mask becomes a use of ones of its shape."""
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == "attention_mask":
                node.input[index] = "all_ones"
    like = onnx.helper.make_tensor("one", onnx.TensorProto.INT64, [1], [1])
    nodes = [
        onnx.helper.make_node("Shape", ["input_ids"], ["ids_shape"]),
        onnx.helper.make_node("ConstantOfShape", ["ids_shape"], ["all_ones"], value=like),
    ]
    for position, node in enumerate(nodes):
        model.graph.node.insert(position, node)


@pytest.mark.parametrize(
    "change", [change_a_weight, swap_two_slots, drop_the_mask], ids=lambda f: f.__name__
)
def test_a_wrong_graph_is_kept_with_the_verdict(
    config: BuildConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Any], None],
) -> None:
    tampered(monkeypatch, change)
    manifest = build(config)
    assert not manifest.passed
    assert manifest.parity.failures
    assert read_manifest(tmp_path / "out") == manifest
    report = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert report["passed"] is False
    assert report["failures"] == list(manifest.parity.failures)
    with pytest.warns(UserWarning, match="outside its parity limits"):
        load(tmp_path / "out").close()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_fault_of_the_export_does_not_hide_behind_the_precision(
    precision: str,
    config: BuildConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tampered(monkeypatch, swap_two_slots)
    runs: list[int] = []
    observe = TorchRunner.observe

    def counted(self: TorchRunner, feeds: Any, layers: bool) -> Any:
        runs.append(len(feeds))
        return observe(self, feeds, layers)

    monkeypatch.setattr(TorchRunner, "observe", counted)
    # What leaves the limits is judged relative to noise as well, which takes a run of its own.
    monkeypatch.setattr(check, "_noise", lambda *_: Noise({}, {}))
    given = (config.model, "--output", config.output, "--data", config.data)
    options = ("--precision", precision, "--target", "onnx")
    assert main([str(item) for item in ("build", *given, *options)]) == 1
    report = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert len(runs) == len(report["cases"])  # the reference runs once for both graphs
    found = report if precision == "fp32" else report["export"]
    first = "first layer outside its limits: layer 0: "
    assert any(line.startswith(first) for line in found["failures"])
    assert (found["limits"]["precision"], found["passed"]) == ("fp32", False)
    assert found["data_sets"][0]["layers"]["layer 0"]["rms_relative"] > 0
    assert report["first_fault"]["subject"] == "layer 0"
    out = capsys.readouterr().out
    if precision == "fp32":
        assert report["export"] is None and "export in fp32" not in out
        return
    assert report["failures"][0].startswith(f"export in fp32: {first}")
    assert read_manifest(tmp_path / "out").parity.failures == tuple(report["failures"])
    assert "export in fp32: FAIL, onnxruntime cpu, " in out
    assert f"FAIL export in fp32: {first}" in out
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} == set()


def test_a_correct_rewrite_of_the_graph_passes(
    config: BuildConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    tampered(monkeypatch, lambda model: None)  # what the tests above do, without the fault
    assert build(config).passed


def test_limits_decide(config: BuildConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def strict(precision: str) -> Limits:
        limits = limits_for(precision).limits
        bounds = {Metric.MAX_RELATIVE: 1e-12}
        # Limits of ours give way to the noise of the precision; a user's do not.
        mine = (replace(x, bound=bounds.get(x.metric, x.bound), origin="test") for x in limits)
        return Limits(precision, tuple(mine))

    monkeypatch.setattr(pipeline_module, "limits_for", strict)
    manifest = build(config)
    assert not manifest.passed
    assert all("max_relative" in failure for failure in manifest.parity.failures)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position_biased_input": True}, "the model has positions for 160 tokens"),
        ({"vocab_size": 900}, "900"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    changes: dict[str, Any],
    message: str,
    config: BuildConfig,
    make_checkpoint: MakeCheckpoint,
    tmp_path: Path,
) -> None:
    folder = make_checkpoint("base", **changes)
    with pytest.raises(InputError, match=message):
        build(replace(config, model=folder, seq=Range(1, 8, 400)))
    assert list(tmp_path.iterdir()) == []


def test_lengths_beyond_the_training_are_fine_with_relative_positions(
    config: BuildConfig, tmp_path: Path
) -> None:
    manifest = build(replace(config, seq=Range(1, 8, 331)))
    assert manifest.passed
    report = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert max(case["shape"][1] for case in report["cases"]) == 331


def test_nan_weights_are_refused(
    config: BuildConfig, tmp_path: Path, make_checkpoint: MakeCheckpoint
) -> None:
    from safetensors.numpy import load_file, save_file

    source = make_checkpoint("sequence-classification")
    folder = tmp_path / "nan"
    folder.mkdir()
    weights = load_file(source / "model.safetensors")
    weights["classifier.bias"][0] = np.nan
    save_file(weights, folder / "model.safetensors")
    for name in ("config.json", "spm.model"):
        (folder / name).write_bytes((source / name).read_bytes())
    with pytest.raises(InputError, match=r"classifier\.bias holds NaN"):
        build(replace(config, model=folder))
    assert not (tmp_path / "out").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"nan"}


def test_a_warning_for_fields_that_nothing_reads(
    config: BuildConfig, make_checkpoint: MakeCheckpoint
) -> None:
    folder = make_checkpoint("base", some_new_field=3)
    with pytest.warns(UserWarning, match="fields that nothing reads: some_new_field"):
        build(replace(config, model=folder))


def test_a_missing_package_is_said_before_any_work(
    config: BuildConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        pipeline_module, "find_spec", lambda name: None if name == "onnxruntime" else name
    )
    with pytest.raises(MissingDependencyError, match=r'onnxruntime .* "deb-export\[cpu\]"'):
        build(config)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_in_the_middle_leaves_nothing(
    config: BuildConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(checkpoint: Any, path: Path, **options: Any) -> None:
        path.write_bytes(b"half")
        Path("/dev/full").write_text("x")

    monkeypatch.setattr(export_module, "export_onnx", full)
    with pytest.raises(InputError, match="the disk is full"):
        build(config)
    assert list(tmp_path.iterdir()) == []
