"""The lowest and the newest of what pyproject.toml allows, each in an environment of its own.

An artifact of each head and precision is opened in every way that a session has, by the lowest
and the newest ONNX Runtime; the lowest Python with the lowest of every package runs the commands
that need no PyTorch; the lowest of what the exporter is built on builds with this PyTorch.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import write_checkpoint
from support.site_graphs import feeds

import exporter
from exporter.deberta.checkpoint import open_checkpoint
from exporter.graph.export import export_onnx
from exporter.inputs.text_files import calibration_texts
from exporter.model.task import ARCHITECTURES, Task
from exporter.precision.half.to_half import convert_file
from exporter.precision.quantized.calibration_text import prepare_text
from exporter.precision.quantized.quantization_options import QuantizationOptions
from exporter.precision.quantized.quantize import NumberFormat, quantize_file
from exporter.runtime.load import text_encoder
from exporter.runtime.providers.onnx_session import OnnxSession

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BUILT_ON = ("torch", "onnx", "onnx-ir", "onnxscript", "numpy", "onnxruntime")
"""What a build is made with."""


BESIDE = {
    "openvino": "tests/unit/runtime/providers/test_openvino_session.py",
    "polygraphy": "tests/unit/inputs/test_polygraphy_json.py",
    "triton": "tests/unit/plugins/test_ptx.py",
}
"""What an artifact meets beside ONNX Runtime, and the tests of it."""


def lowest(*extras: str) -> dict[str, str]:
    """The lowest version allowed of each package, by name: what all need, and these extras."""
    optional = PROJECT["optional-dependencies"]
    entries = [*PROJECT["dependencies"], *(entry for extra in extras for entry in optional[extra])]
    bounds = (entry.partition(";")[0].partition(",")[0].split(">=") for entry in entries)
    return {name.strip(): version.strip() for name, version in bounds}


def environment(
    folder: Path, python: str, packages: list[str], *options: str
) -> tuple[str, dict[str, str]]:
    """A virtual environment with packages: its interpreter, and the variables to run it with."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    number = PROJECT["requires-python"].removeprefix(">=")
    chosen = {**variables, "PYENV_VERSION": number} if python != sys.executable else variables
    subprocess.run([python, "-m", "venv", str(folder)], check=True, env=chosen)
    inside = str(folder / "bin" / "python")
    install = [inside, "-m", "pip", "install", "-q", "--disable-pip-version-check", *options]
    subprocess.run([*install, *packages], check=True)
    return inside, variables


def run(inside: tuple[str, dict[str, str]], *arguments: object) -> str:
    """What a call of an environment's interpreter prints; the test fails where it does."""
    python, variables = inside
    done = subprocess.run(
        [python, *map(str, arguments)], env=variables, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stdout[-3000:]}{done.stderr[-1500:]}"
    return done.stdout


def complete(folder: Path) -> None:
    """Packages that the environment lacks are those of this one."""
    place = next(folder.glob("lib/python*/site-packages"))
    (place / "this.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")


def assert_found(inside: tuple[str, dict[str, str]], bounds: dict[str, str]) -> None:
    versions = "import importlib.metadata as m; print(*map(m.version, __import__('sys').argv[1:]))"
    found = dict(zip(bounds, run(inside, "-c", versions, *bounds).split(), strict=True))
    assert all(version.startswith(bounds[name]) for name, version in found.items()), found


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every head in fp32, int8 (7 and 8 bits) and fp16, fp8 of one of them, with their outputs."""
    folder = tmp_path_factory.mktemp("graphs")
    for task in ARCHITECTURES.values():
        checkpoint = open_checkpoint(write_checkpoint(folder / task.value, task.value), task)
        shape, exported = checkpoint.shape, folder / f"{task.value}-fp32.onnx"
        export_onnx(checkpoint, exported, external_data=True)
        encoder = text_encoder(checkpoint.folder, task, 40)
        assert encoder is not None
        text = prepare_text(encoder, shape, calibration_texts(None, shape)[:60])
        batches = text.batches.feeds[:3]
        convert_file(
            exported, folder / f"{task.value}-fp16.onnx", "fp16", batches, precision="fp16"
        )
        kinds = {"int7": ("int8", 7), "int8": ("int8", 8)}
        if task is Task.BASE:
            kinds["fp8"] = ("fp8", None)
        for name, (number, bits) in kinds.items():
            options = QuantizationOptions(weight_bits=bits)
            target = folder / f"{task.value}-{name}.onnx"
            quantize_file(
                exported, target, shape, text, NumberFormat(number), options, model_hash=""
            )
        inputs = feeds({"vocab_size": 1000, "type_vocab_size": 0}, task, 3, 17)
        inputs["attention_mask"][:] = 1  # rows of padded tokens are unspecified
        for path in folder.glob(f"{task.value}-*.onnx"):
            bits = 7 if path.stem.endswith("int7") else 8
            with OnnxSession(path, shape, weight_bits=bits) as session:
                outputs = session.run(**inputs)
            first = outputs[session.output_names[0]]
            np.savez(path.with_suffix(".npz"), expected=first, **inputs)
    return folder


@pytest.fixture(scope="module")
def lowest_of_all(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """The lowest Python with the lowest of every package but PyTorch."""
    number = PROJECT["requires-python"].removeprefix(">=")
    name = f"python{number}"
    found = shutil.which(name)
    # pyenv's command of that name is there whether or not the version is.
    version = {**os.environ, "PYENV_VERSION": number}
    if found is None or subprocess.run([found, "--version"], env=version, check=False).returncode:
        pytest.skip("the lowest Python is not on the path")
    packages = [f"{name}=={bound}" for name, bound in lowest("cpu").items() if name != "torch"]
    return environment(tmp_path_factory.mktemp("lowest") / "venv", found, packages)


def test_the_newest_onnx_runtime_opens_everything(graphs: Path, tmp_path: Path) -> None:
    inside = environment(tmp_path / "venv", sys.executable, ["onnxruntime"])
    assert ", 0 wrong" in run(inside, "tests/support/any_session.py", graphs)


def test_the_lowest_of_all_opens_and_serves(
    graphs: Path, lowest_of_all: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    assert ", 0 wrong" in run(lowest_of_all, "tests/support/any_session.py", graphs)
    artifact = tmp_path / "artifact"
    config = exporter.BuildConfig(output=artifact, precision="int8", targets=("onnx",))
    assert exporter.build(config).passed
    text = "A joy from start to end."
    printed = json.loads(
        run(lowest_of_all, "-m", "exporter", "run", artifact, "--format", "jsonl", text)
    )
    (expected,) = exporter.load(artifact)([text])
    scores = {item["label"]: item["score"] for item in printed["labels"]}
    assert scores == pytest.approx({item.label: item.score for item in expected.labels}, abs=1e-5)
    run(lowest_of_all, "-m", "exporter", "inspect", artifact)
    run(lowest_of_all, "-m", "exporter", "package", artifact, "--triton", tmp_path / "models")


@pytest.fixture
def lowest_to_build(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The lowest of what builds are made with; removed at the end, since PyTorch is gigabytes."""
    bounds = lowest("cpu")
    packages = [f"{name}=={bounds[name]}" for name in BUILT_ON]
    inside = environment(tmp_path / "venv", sys.executable, packages, "--no-cache-dir")
    complete(tmp_path / "venv")
    assert_found(inside, {name: bounds[name] for name in BUILT_ON})
    yield inside
    shutil.rmtree(tmp_path / "venv")


def test_the_lowest_of_what_builds_are_made_with(
    tmp_path: Path, lowest_to_build: tuple[str, dict[str, str]]
) -> None:
    # PyTorch 2.10 and below fail to trace a convolution with a dynamic length.
    folder = write_checkpoint(tmp_path / "convolution", "token-classification", conv_kernel_size=3)
    for precision in ("int8", "fp16"):
        output, command = tmp_path / precision, ["build", folder, "--precision", precision]
        command += ["--target", "onnx", "--seq", "1,16,40", "--output", output]
        assert "parity: pass" in run(lowest_to_build, "-m", "exporter", *command)


def test_the_lowest_of_what_an_artifact_meets(tmp_path: Path) -> None:
    bounds = {name: lowest("openvino", "rtx", "triton")[name] for name in BESIDE}
    packages = [f"{name}=={bound}" for name, bound in bounds.items()]
    inside = environment(tmp_path / "venv", sys.executable, packages, "--no-deps")
    complete(tmp_path / "venv")
    assert_found(inside, bounds)
    run(inside, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *BESIDE.values())
    shutil.rmtree(tmp_path / "venv")
