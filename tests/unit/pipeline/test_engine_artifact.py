"""An artifact with an engine: built, described, packaged, and refused where it cannot run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
pytest.importorskip("polygraphy", reason="Polygraphy is not installed")

import exporter
from exporter.artifact.engine_record import EngineOptions
from exporter.artifact.manifest import read_manifest
from exporter.cli import main
from exporter.engine import plan_description
from exporter.errors import InputError, MissingDependencyError
from exporter.model.profile import Range, ShapeProfile
from exporter.pipeline.config import BuildConfig

pytestmark = pytest.mark.usefixtures("shared_traces")

MakeCheckpoint = Callable[..., Path]
SEQ = Range(1, 16, 40)


@pytest.fixture(scope="module")
def built(
    make_checkpoint: MakeCheckpoint, texts_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An artifact with an engine of TensorRT-RTX. Tests must not change it."""
    folder = tmp_path_factory.mktemp("built") / "artifact"
    config = BuildConfig(
        model=make_checkpoint(num_hidden_layers=1),
        output=folder,
        data=texts_file,
        targets=("onnx", "tensorrt-rtx"),
        batch=Range(1, 2, 4),
        seq=SEQ,
        engine=EngineOptions(compute_capabilities=(89,)),
    )
    assert exporter.build(config).passed
    return folder


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    """The same artifact, to be changed."""
    return Path(shutil.copytree(built, tmp_path / "copy"))


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_manifest_records_the_engine(built: Path) -> None:
    manifest = read_manifest(built)
    (engine,) = manifest.engines
    assert (engine.target, engine.file) == ("tensorrt-rtx", "model.rtx.plan")
    assert engine.profiles == (ShapeProfile(Range(1, 2, 4), SEQ),)
    assert engine.options.compute_capabilities == (89,)
    assert {engine.file, engine.layers} <= {item.path for item in manifest.files}
    assert manifest.seconds["engines"] > 0
    assert "tensorrt-rtx" in manifest.environment and "polygraphy" in manifest.environment


def test_inspect_describes_the_engine(capsys: pytest.CaptureFixture[str], built: Path) -> None:
    code, out, _ = call(capsys, "inspect", built / "model.rtx.plan")
    assert code == 0
    for part in (
        "builder    TensorRT-RTX 1.",
        "precision  fp32",
        "profile 0  batch 1,2,4, length 1,16,40",
        "compute_capabilities 89",
        "attention  expanded",
        "memory     activation",
        "fused      kgen: ",
    ):
        assert part in out, part
    code, out, _ = call(capsys, "inspect", built / "model.rtx.plan", "--json", "-")
    found = json.loads(out)
    assert found["record"]["version"].startswith(found["header"]["version"].rpartition(".")[0])
    assert found["summary"]["attention"] == "expanded"
    assert found["kernels"] and not found["problems"]
    code, out, _ = call(capsys, "inspect", built)
    assert code == 0
    assert "engine     model.rtx.plan  tensorrt-rtx" in out


def test_inspect_without_a_manifest(
    capsys: pytest.CaptureFixture[str],
    built: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = Path(shutil.copy(built / "model.rtx.plan", tmp_path))
    monkeypatch.setattr(plan_description, "gpus", lambda: ())
    code, out, _ = call(capsys, "inspect", plan)
    assert code == 0
    assert "builder    TensorRT-RTX 1." in out
    assert "none beside it names this engine" in out
    assert "kernels    unknown: TensorRT-RTX lists them on the engine's GPU only" in out
    shutil.copy(built / "model.rtx.layers.json", tmp_path)
    code, out, _ = call(capsys, "inspect", plan)
    assert code == 0
    assert "attention  expanded" in out and "fused      kgen: " in out


def test_inspect_without_a_manifest_on_a_gpu(
    capsys: pytest.CaptureFixture[str],
    built: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:

    def load(backend: object, trt: object, path: Path) -> tuple[object, object]:
        if refuse:
            raise InputError("built for another GPU")
        layers = json.dumps({"Layers": [{"Name": "x", "LayerType": "PluginV3"}]})
        inspector = SimpleNamespace(get_engine_information=lambda kind: layers)
        return None, SimpleNamespace(create_engine_inspector=lambda: inspector)

    plan = Path(shutil.copy(built / "model.rtx.plan", tmp_path))
    monkeypatch.setattr(plan_description, "gpus", lambda: ("a GPU",))
    monkeypatch.setattr("exporter.engine.plan_description.deserialize", load)
    refuse = False
    assert "attention  plugin" in call(capsys, "inspect", plan)[1]
    refuse = True
    assert "kernels    unknown" in call(capsys, "inspect", plan)[1]


def test_inspect_of_a_changed_engine(capsys: pytest.CaptureFixture[str], copy: Path) -> None:
    plan = copy / "model.rtx.plan"
    content = bytearray(plan.read_bytes())
    content[-1] ^= 1
    plan.write_bytes(content)
    code, out, _ = call(capsys, "inspect", plan)
    assert code == 1
    assert "CHANGED    model.rtx.plan changed: SHA-256" in out


@pytest.mark.parametrize("keep", [0, 27, 1000])
def test_inspect_of_a_truncated_engine(
    capsys: pytest.CaptureFixture[str], copy: Path, keep: int
) -> None:
    plan = copy / "model.rtx.plan"
    plan.write_bytes(plan.read_bytes()[:keep])
    code, _, err = call(capsys, "inspect", plan)
    assert code == 2
    assert "cut short" in err or "not a TensorRT engine" in err
    with pytest.raises(InputError, match=r"model\.rtx\.plan: \d+ bytes, the manifest says"):
        exporter.load(copy, "tensorrt-rtx")


def test_a_list_of_kernels_that_is_malformed(
    capsys: pytest.CaptureFixture[str], copy: Path
) -> None:
    (copy / "model.rtx.layers.json").write_text("[{}]")
    code, _, err = call(capsys, "inspect", copy / "model.rtx.plan")
    assert code == 2
    assert "malformed" in err


def test_a_manifest_that_leads_outside_its_folder(copy: Path) -> None:
    path = copy / "manifest.json"
    data = json.loads(path.read_text())
    data["engines"][0]["file"] = "../model.plan"
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match="field 'engines' is malformed"):
        read_manifest(copy)


def test_providers_that_are_missing_here(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from exporter.engine import cuda
    from exporter.runtime.providers import tensorrt_session

    def no_driver(**options: object) -> cuda.Gpu:
        return find_gpu("libno_such_driver.so.1")

    find_gpu = cuda.find_gpu
    monkeypatch.setattr(cuda, "find_gpu", no_driver)
    assert tensorrt_session.CudaDevice is cuda.CudaDevice
    with pytest.raises(MissingDependencyError, match="no NVIDIA driver"):
        exporter.load(built, "tensorrt-rtx")
    with pytest.raises(InputError, match="has no engine of tensorrt; build it with --target"):
        exporter.load(built, "tensorrt")


def test_package_writes_a_repository(
    capsys: pytest.CaptureFixture[str], built: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "models"
    code, out, _ = call(capsys, "package", built, "--triton", repository, "--name", "m")
    assert code == 0
    assert (repository / "m_onnx" / "1" / "model.onnx").is_file()
    assert "not written: the engine of tensorrt-rtx" in out
    assert call(capsys, "package", built, "--triton", repository, "--name", "m")[0] == 2
    code, _, err = call(capsys, "package", built)
    assert code == 2
    assert "--triton DIR" in err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--target", "tensorrt-rtx", "--timing-cache", "x"], 2, "--timing-cache: TensorRT-RTX"),
        (["--target", "tensorrt-rtx", "--profile", "9x1,2,3"], 2, "no profile takes texts of 160"),
        (["--target", "tensorrt-rtx", "--profile", "9,8,7x1"], 2, "--profile '9,8,7x1'"),
        (["--compute-capability", "9x"], 2, "--compute-capability '9x'"),
        (["--optimization-level", "9"], 2, "--optimization-level 9"),
        (["--seq", "9,8,7"], 2, "--seq"),
    ],
)
def test_options_that_cannot_be_built(
    capsys: pytest.CaptureFixture[str],
    make_checkpoint: MakeCheckpoint,
    tmp_path: Path,
    options: list[str],
    code: int,
    message: str,
) -> None:
    model = make_checkpoint(num_hidden_layers=1)
    found, _, err = call(capsys, "build", model, "--output", tmp_path / "out", *options)
    assert (found, "error: " in err) == (code, True)
    assert message in err
    assert not (tmp_path / "out").exists()


def test_a_target_that_is_not_installed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from exporter.engine import backend

    monkeypatch.setattr(backend, "package_version", lambda name: None)
    code, _, err = call(capsys, "build", "--target", "tensorrt", "--output", tmp_path / "out")
    assert code == 3
    assert "--target tensorrt: TensorRT is not installed: pip install" in err
