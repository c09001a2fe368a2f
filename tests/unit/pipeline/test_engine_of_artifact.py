"""Engines for a finished artifact: built and judged without its checkpoint, and refused.

TensorRT-RTX builds them; a stand-in takes the place of its classes and of the GPU where one runs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.command_line import call
from support.engine_stand_in import Engine, HostDevice, module, wrong

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
pytest.importorskip("polygraphy", reason="Polygraphy is not installed")

from exporter.artifact.files import record
from exporter.artifact.manifest import read_manifest
from exporter.engine.backend import Backend
from exporter.errors import InputError
from exporter.model.profile import Range
from exporter.parity import recorded
from exporter.parity.recorded import RECORD_FILE, read_record
from exporter.pipeline import engine_artifact
from exporter.pipeline.build_artifact import build
from exporter.pipeline.config import BuildConfig
from exporter.pipeline.engine_artifact import EngineConfig
from exporter.runtime.load import artifact_shape
from exporter.runtime.providers import tensorrt_session
from exporter.runtime.providers.onnx_session import OnnxSession

pytestmark = pytest.mark.usefixtures("shared_traces")

PLAN = "model.rtx.plan"
TARGET = ("--target", "tensorrt-rtx", "--compute-capability", "89")


@pytest.fixture(scope="module")
def built(
    make_checkpoint: Callable[..., Path], texts_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An artifact without an engine, whose checkpoint is gone. Tests must not change it."""
    folder = tmp_path_factory.mktemp("built")
    source = make_checkpoint("token-classification", num_hidden_layers=1)
    shutil.copytree(source, folder / "checkpoint")
    config = BuildConfig(
        folder / "checkpoint",
        folder / "artifact",
        data=texts_file,
        targets=("onnx",),
        batch=Range(1, 2, 4),
        seq=Range(1, 16, 33),
    )
    assert build(config).passed
    shutil.rmtree(folder / "checkpoint")
    return folder / "artifact"


@pytest.fixture
def artifact(built: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(built, tmp_path / "artifact"))


def listed(folder: Path) -> dict[str, tuple[int, str]]:
    return {
        path.name: (path.stat().st_size, record(path).sha256)
        for path in sorted(folder.iterdir())
        if path.name != "manifest.json"
    }


def run_here(monkeypatch: pytest.MonkeyPatch, graph: Path, artifact: Path) -> None:
    """A GPU, and an engine that computes what `graph` does."""
    shape = artifact_shape(artifact, read_manifest(artifact))
    monkeypatch.setattr(Backend, "load", lambda self: module(Engine(OnnxSession(graph, shape))))
    monkeypatch.setattr(tensorrt_session, "CudaDevice", lambda: HostDevice(capability=89))


# Those of the stand-in.
PROFILED = (*TARGET, "--profile", "1,1,1x1,4,8", "--profile", "1,2,5x3,9,33")


def test_an_engine_is_added_without_checkpoint_or_pytorch(artifact: Path) -> None:
    before = listed(artifact)
    code = (
        "import sys; from exporter.cli import main; code = main(sys.argv[1:])\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules; sys.exit(code)"
    )
    arguments = [sys.executable, "-c", code, "engine", str(artifact), *TARGET]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "against recorded at the build" in done.stdout and "parity: pass" in done.stdout
    manifest = read_manifest(artifact)
    (engine,) = manifest.engines
    assert (engine.target, engine.options.compute_capabilities) == ("tensorrt-rtx", (89,))
    assert engine.profiles[0].seq == Range(1, 16, 33)
    assert manifest.targets == ("onnx", "tensorrt-rtx")
    assert engine.parity.status == "not judged" and "driver" in engine.parity.reason
    assert "tensorrt-rtx" not in manifest.skipped and manifest.seconds["engines"] > 0
    after = listed(artifact)
    assert {item.path: (item.bytes, item.sha256) for item in manifest.files} == after
    assert {name for name in after if after[name] != before.get(name)} == {
        PLAN, engine.layers, "parity.json",
    }  # fmt: skip
    report = json.loads((artifact / "parity.json").read_text())
    assert report["passed"] and [item["file"] for item in report["engines"]] == [PLAN]


def test_engines_are_judged_where_they_run(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_here(monkeypatch, built / "model.onnx", built)
    code, out, err = call(capsys, "engine", built, *PROFILED, "--output", tmp_path / "right")
    assert code == 0 and f"engine {PLAN}: pass" in out, (out, err)
    assert read_manifest(tmp_path / "right").engines[0].parity.status == "passed"
    assert not read_manifest(built).engines
    run_here(monkeypatch, wrong(built / "model.onnx", tmp_path / "wrong.onnx"), built)
    code, out, _ = call(capsys, "engine", built, *PROFILED, "--output", tmp_path / "bad")
    assert code == 1 and f"engine {PLAN}: FAIL" in out
    manifest = read_manifest(tmp_path / "bad")
    assert manifest.engines[0].parity.status == "failed"
    assert not manifest.passed and manifest.parity.failures[0].startswith(f"{PLAN}: logits")
    # Built again, and right: the engine's failures are those of the new one.
    run_here(monkeypatch, built / "model.onnx", built)
    code, out, _ = call(capsys, "engine", tmp_path / "bad", *PROFILED)
    assert code == 0 and read_manifest(tmp_path / "bad").parity.failures == ()
    assert len(read_manifest(tmp_path / "bad").engines) == 1


def test_a_graph_that_computes_otherwise_here_fails(
    artifact: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its outputs are compared with the record: a wrong runtime shows, the file being whole."""
    arrays = load_file(artifact / RECORD_FILE)
    side, _ = read_record(artifact / RECORD_FILE, artifact_shape(artifact, read_manifest(artifact)))
    with recorded.safe_open(artifact / RECORD_FILE, framework="np") as file:
        metadata = file.metadata()
    changed = {n: v + np.float32(0.5) if " output " in n else v for n, v in arrays.items()}
    save_file(changed, artifact / RECORD_FILE, metadata=metadata)
    monkeypatch.setattr(engine_artifact, "verify_files", lambda *_: ())
    code, out, _ = call(capsys, "engine", artifact, *TARGET)
    assert code == 1 and "parity: FAIL" in out
    assert side.info.kind == "saved outputs"


def test_what_cannot_be_built_leaves_the_artifact(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = listed(artifact)
    refused = {
        "unknown; choose from": ("--target", "openvino"),
        "TensorRT is not installed": ("--target", "tensorrt"),
        "no such option": (*TARGET, "--version-compatible"),
        "does not build for it": ("--target", "tensorrt-rtx", "--compute-capability", "50"),
    }
    for text, options in refused.items():
        code, _, err = call(capsys, "engine", artifact, *options)
        assert code in (2, 3) and text in err, err
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("")
    code, _, err = call(capsys, "engine", artifact, *TARGET, "--output", tmp_path / "there")
    assert code == 2 and "exists; choose another" in err
    assert listed(artifact) == before and not list(tmp_path.glob(".*"))
    (artifact / "model.onnx").write_bytes(b"x")
    code, _, err = call(capsys, "engine", artifact, *TARGET)
    assert code == 2 and "model.onnx changed" in err
    with pytest.raises(InputError, match="at least one"):
        EngineConfig(artifact, ())


def test_a_record_is_small_whole_and_without_texts(
    built: Path, texts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = (built / RECORD_FILE).read_bytes()
    assert 1000 < len(content) < recorded.LIMIT_BYTES
    assert b"splendid" in texts_file.read_bytes() and b"splendid" not in content
    shape = artifact_shape(built, read_manifest(built))
    _, sets = read_record(built / RECORD_FILE, shape)
    report = json.loads((built / "parity.json").read_text())
    assert [item.inputs for item in sets] == [item["inputs"] for item in report["data_sets"]]
    for damaged in (b"", content[:200], content[:-8], b"{}" * 50):
        (tmp_path / "r").write_bytes(damaged)
        with pytest.raises(InputError, match="not outputs of the reference"):
            read_record(tmp_path / "r", shape)
