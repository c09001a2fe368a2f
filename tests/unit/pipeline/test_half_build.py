"""Builds in fp16 and bf16, from a checkpoint to a judged artifact."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from safetensors.torch import load_file, save_file
from support.half_models import rescale
from support.parity_results import judged_again

import exporter
from exporter.artifact.manifest import Manifest
from exporter.cli import main
from exporter.errors import InputError
from exporter.model.profile import Range
from exporter.pipeline.config import BuildConfig
from exporter.runtime.load import load

pytestmark = pytest.mark.usefixtures("shared_traces")

MakeCheckpoint = Callable[..., Path]
SEQ = Range(1, 16, 64)


def build(checkpoint: Path, output: Path, precision: str, **options: Any) -> Manifest:
    config = BuildConfig(
        model=checkpoint,
        output=output,
        precision=precision,
        targets=("onnx",),
        seq=SEQ,
        **options,
    )
    return exporter.build(config)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize(
    "task", ["sequence-classification", "masked-lm", "question-answering", "multiple-choice"]
)
def test_artifact(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, task: str, precision: str
) -> None:
    checkpoint = make_checkpoint(task, type_vocab_size=2)
    manifest = build(checkpoint, tmp_path / "out", precision)
    assert manifest.passed
    assert (manifest.precision, manifest.half) == (precision, precision)
    half = manifest.graph["half"]
    assert half["attention_nodes"] == manifest.graph["attention_nodes"] == 2
    assert manifest.graph["weight_bytes"] == half["stored_bytes"]
    assert not (tmp_path / "out" / "work").exists()
    assert {limit["metric"] for limit in manifest.limits} >= {"agreement", "max_relative"}
    model = ir.load(tmp_path / "out" / "model.onnx")
    assert model.metadata_props["deb_export.precision"] == precision

    report = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert report["candidate"]["runtime"] == "onnxruntime cpu, rounded as half"
    assert judged_again(tmp_path / "out")
    session = load(tmp_path / "out")
    exact = load(tmp_path / "out", "torch")
    shape = (2, 3, 11) if task == "multiple-choice" else (2, 11)
    ids = np.random.default_rng(0).integers(4, 1600, shape)
    for name, expected in exact.run(input_ids=ids).items():
        actual = session.run(input_ids=ids)[name]
        assert actual.dtype == np.float32
        bound = {"fp16": 5e-3, "bf16": 4e-2}[precision] * np.abs(expected).max()
        assert 0 < np.abs(actual - expected).max() < bound


def test_what_stays_in_fp32_is_in_the_manifest(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    checkpoint = rescale(make_checkpoint(), tmp_path / "checkpoint", "value", 2.0**17)
    with pytest.warns(UserWarning, match=r"\d\d% of the weights stay in fp32.*bf16"):
        manifest = build(checkpoint, tmp_path / "out", "fp16")
    assert manifest.passed
    half = manifest.graph["half"]
    assert half["recommend_bf16"] is True
    kept = {item["module"]: item for item in half["kept_fp32"]}
    item = kept["deberta.encoder.layer.1.attention.self.qkv"]
    assert item["absmax"] > 16376
    assert "16376" in item["reason"]
    assert build(checkpoint, tmp_path / "bf16", "bf16").graph["half"]["kept_fp32"] == []


def test_a_graph_that_overflows_fails_parity(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where calibration text misses what the model does."""
    checkpoint = rescale(make_checkpoint(), tmp_path / "checkpoint", "value", 2.0**16)
    monkeypatch.setattr(
        "exporter.precision.half.to_half.measure_ranges", lambda *args, **options: None
    )
    manifest = build(checkpoint, tmp_path / "out", "fp16")
    assert not manifest.passed
    assert any("non_finite" in line for line in manifest.parity.failures)


def test_calibration_data(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = make_checkpoint()
    texts = tmp_path / "texts.jsonl"
    texts.write_text("\n".join(json.dumps({"text": f"text number {n}"}) for n in range(70)))
    assert build(checkpoint, tmp_path / "a", "fp16", calibration_data=texts).passed

    texts.write_text("one\n")
    arguments = ["build", str(checkpoint), "--output", str(tmp_path / "b")]
    arguments += ["--calibration-data", str(texts)]
    assert main([*arguments, "--precision", "fp16"]) == 2
    assert "--calibration-data: " in capsys.readouterr().err
    assert main(arguments) == 2
    assert "fp32 has no use for it" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_nan_in_a_value_leaves_nothing(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(make_checkpoint(), checkpoint)
    weights = load_file(checkpoint / "model.safetensors")
    weights["deberta.encoder.layer.1.attention.self.value_proj.weight"] *= 3e38
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="NaN in fp32 already"):
        build(checkpoint, tmp_path / "out", "fp16")
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint"}


def test_without_a_tokenizer_the_ranges_are_of_random_ids(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match="ranges are measured on random token ids"):
        manifest = build(make_checkpoint("base", tokenizer=False), tmp_path / "out", "fp16")
    assert manifest.passed
