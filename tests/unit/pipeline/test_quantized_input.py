"""Bad input of int8 and fp8 builds, and interruptions: a clear message, nothing half-written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from calibration.resume import Resume
from exporter.cli import main
from exporter.deberta.checkpoint import open_checkpoint
from exporter.errors import InputError
from exporter.model.profile import Range
from exporter.pipeline.build_artifact import build_and_judge
from exporter.pipeline.config import BuildConfig
from exporter.precision.quantized.quantization_input import QuantizationInput, quantization_input
from exporter.precision.quantized.quantization_options import QuantizationOptions
from exporter.runtime.load import text_encoder

pytestmark = pytest.mark.usefixtures("shared_traces")

MakeCheckpoint = Callable[..., Path]
WORDS = "the film was long and I would not see it again a splendid little camera no".split()


@pytest.fixture(scope="module")
def texts() -> list[str]:
    rng = np.random.default_rng(2)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 25))) for _ in range(64)]


def write(path: Path, lines: list[str] | bytes) -> Path:
    path.write_bytes(lines if isinstance(lines, bytes) else "\n".join(lines).encode())
    return path


def config(checkpoint: Path, output: Path, data: Path, **options: Any) -> BuildConfig:
    return BuildConfig(
        model=checkpoint,
        output=output,
        precision="int8",
        targets=("onnx",),
        seq=Range(1, 16, 40),
        data=data,
        calibration_data=data,
        quantization=QuantizationOptions(**options),
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; give one text per line"),
        (b"\n\n  \n", "is empty; give one text per line"),
        (b"one\ntwo\n", "2 examples; give at least 8"),
        (b"\x00\x01\x02\n" * 9, "line 1: binary data"),
        ("Größe\n".encode("latin-1") * 9, "line 1: not UTF-8"),
        (b"the same\n" * 70, "all calibration texts are the same"),
    ],
)
def test_unusable_text(
    content: bytes,
    message: str,
    make_checkpoint: MakeCheckpoint,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write(tmp_path / "texts.txt", content)
    arguments = ["build", str(make_checkpoint()), "--output", str(tmp_path / "out")]
    arguments += ["--precision", "int8", "--calibration-data", str(data)]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["texts.txt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--calibration-method", "best"],
            "--calibration-method 'best': unknown; choose from minm",
        ),
        (["--calibration-method", "percentile", "--percentile", "0"], "--percentile 0.0: give one"),
        (["--percentile", "99"], "--percentile: --calibration-method minmax has no use for it"),
        (["--rest", "int4"], "--rest 'int4': unknown; choose from fp32, fp16, bf16"),
        (["--weight-bits", "4"], "--weight-bits 4: unknown; choose from 7, 8"),
        (["--accuracy-budget", "99.8"], "--accuracy-budget 99.8: give a share, as in 0.003"),
        (["--quantize-layers", "a"], "layers 'a': give numbers and ranges"),
        (["--quantize-layers", "1-7", "--quantize-include", "decoder"], "no layer 2; the model"),
        (["--quantize-include", "("], "'(' is not a regular expression"),
        (["--calibration-data", "/no/such"], "--calibration-data: /no/such: cannot be read"),
    ],
)
def test_wrong_options(
    arguments: list[str],
    message: str,
    make_checkpoint: MakeCheckpoint,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fixed = ["build", str(make_checkpoint()), "--output", str(tmp_path / "out")]
    assert main([*fixed, "--precision", "int8", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []
    assert main([*fixed, "--precision", "fp16", "--weight-bits", "7"]) == 2
    assert "options of quantization are for int8 and fp8" in capsys.readouterr().err
    assert main([*fixed, "--precision", "fp8", "--weight-bits", "7"]) == 2
    assert "--weight-bits: fp8 has no use for it" in capsys.readouterr().err


def test_no_tokenizer(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = make_checkpoint("base", tokenizer=False)
    output = tmp_path / "out"
    assert main(["build", str(checkpoint), "--output", str(output), "--precision", "int8"]) == 2
    assert "no tokenizer to calibrate with; add spm.model" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def read(checkpoint: Path, data: Path) -> QuantizationInput:
    """What a build reads of the texts, before anything is exported."""
    opened = open_checkpoint(checkpoint)
    shape = opened.shape
    encoder = text_encoder(checkpoint, opened.task, 40)
    return quantization_input("int8", QuantizationOptions(), data, shape, encoder)


def test_lines_of_one_token_are_pointed_out(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    lines = [f"{'the film was no'.split()[n % 4]}" for n in range(70)]
    with pytest.warns(UserWarning, match=r"at most one token; thresholds hold"):
        read(make_checkpoint(), write(tmp_path / "words.txt", lines))


def test_text_in_another_language_is_pointed_out(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    lines = [f"Größe {chr(0x4E00 + n)}{chr(0x5E00 + n)} и {n}" for n in range(70)]
    with pytest.warns(UserWarning, match=r"% of the calibration text's tokens are unknown"):
        read(make_checkpoint(), write(tmp_path / "other.txt", lines))


def test_labels_that_nobody_asked_for_are_left_out(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, texts: list[str]
) -> None:
    lines = [json.dumps({"text": text, "label": "x"}) for text in texts]
    data = write(tmp_path / "labelled.jsonl", lines)
    with pytest.warns(UserWarning, match=r"line 1: label 'x': .*no label of the file is used"):
        given = read(make_checkpoint(), data)
    assert {item.label for item in given.texts} == {None}
    known = [json.dumps({"text": text, "label": 1}) for text in texts]
    given = read(make_checkpoint(), write(data, known))
    assert {item.label for item in given.texts} == {None}


def changed(checkpoint: Path, folder: Path, name: str, factor: float) -> Path:
    """A copy of the checkpoint, every weight whose name contains `name` times `factor`."""
    shutil.copytree(checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    for key in weights:
        if name in key:
            weights[key] *= factor
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_zeros_stay_in_float_and_saturation_is_pointed_out(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, texts: list[str]
) -> None:
    data = write(tmp_path / "texts.txt", texts)
    silent = changed(make_checkpoint(), tmp_path / "one", "layer.1.intermediate.dense", 0.0)
    wanted = config(silent, tmp_path / "out", data, method="percentile", percentile=80.0)
    with (
        pytest.warns(UserWarning, match=r"only zeros were seen in .*layer\.1\.output\.dense"),
        pytest.warns(UserWarning, match=r"percentile clips more than 1 % of the values of .*; try"),
    ):
        manifest, _ = build_and_judge(wanted)
    layers = {item["name"]: item for item in manifest.graph["quantization"]["layers"]}
    assert layers["deberta.encoder.layer.1.output.dense"]["choice"] == "float"
    reason = layers["deberta.encoder.layer.1.output.dense"]["reason"]
    assert reason == "its input is zero on all calibration text"
    assert sum(item["choice"] == "int8" for item in layers.values()) == 7


def test_nan_in_an_activation_leaves_nothing(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, texts: list[str]
) -> None:
    data = write(tmp_path / "texts.txt", texts)
    broken = changed(make_checkpoint(), tmp_path / "c", "layer.1.attention.self.value_proj", 3e38)
    with pytest.raises(InputError, match="NaN or infinite values in the fp32 model"):
        build_and_judge(config(broken, tmp_path / "out", data))
    assert {path.name for path in tmp_path.iterdir()} == {"texts.txt", "c"}


def test_an_interrupted_calibration_goes_on(
    make_checkpoint: MakeCheckpoint,
    tmp_path: Path,
    texts: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("exporter.precision.quantized.calibration_text.TOKEN_BUDGET", 160)
    monkeypatch.setattr("exporter.precision.quantized.calibrate.Resume", partial(Resume, seconds=0))
    data = write(tmp_path / "texts.txt", texts)
    wanted = config(make_checkpoint(), tmp_path / "out", data)

    def stop(message: str) -> None:
        if message.startswith("int8: calibration: batch 2 of"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_and_judge(wanted, stop)
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {"texts.txt", ".out.calibration"}

    said: list[str] = []
    manifest, _ = build_and_judge(wanted, said.append)
    assert manifest.passed
    steps = [message for message in said if "calibration: batch" in message]
    assert steps[0].startswith("int8: calibration: batch 2 of") and len(steps) > 2
    assert {path.name for path in tmp_path.iterdir()} == {"texts.txt", "out"}
