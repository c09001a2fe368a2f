"""Engines are judged where they can run, by the build and by `parity`; elsewhere nobody says so.

A stand-in takes the place of TensorRT-RTX's classes and of the GPU.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support.command_line import call
from support.engine_stand_in import Context, Engine, HostDevice, make_record, module, wrong
from support.parity_results import judged_again

from exporter.artifact.engine_record import EngineOptions
from exporter.artifact.manifest import read_manifest
from exporter.deberta.checkpoint import open_checkpoint
from exporter.engine.backend import TENSORRT_RTX, Backend
from exporter.engine.targets import BuiltTargets, TargetPlan
from exporter.errors import MissingDependencyError
from exporter.parity.limits import limits_for
from exporter.parity.result import EngineResult
from exporter.pipeline import build_artifact as pipeline
from exporter.runtime.providers import tensorrt_session
from exporter.runtime.providers.onnx_session import OnnxSession

pytestmark = pytest.mark.usefixtures("shared_traces")

PLAN, LAYERS = "model.rtx.plan", "model.rtx.layers.json"
HEAD = struct.pack("<4sIQQ", b"vtrt", 0, 2, 100) + bytes((1, 7, 1, 116))
NO_GPU = "no NVIDIA driver is installed"


class NoDevice:
    def __init__(self) -> None:
        raise MissingDependencyError(NO_GPU)


def write_plan(onnx: Path) -> BuiltTargets:
    """An engine as far as a build looks at it."""
    onnx.with_name(PLAN).write_bytes(HEAD + bytes(100 - len(HEAD)))
    onnx.with_name(LAYERS).write_text("{}")
    return BuiltTargets((replace(make_record(), file=PLAN, layers=LAYERS),), {})


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint("token-classification", num_hidden_layers=1)


@pytest.fixture(scope="module", autouse=True)
def builder() -> Iterator[None]:
    """A builder that is always there, on a machine without a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        plan = TargetPlan((TENSORRT_RTX,), named=True)
        patch.setattr(pipeline, "plan_targets", lambda targets, options: plan)
        patch.setattr(pipeline, "build_targets", lambda *given: write_plan(given[2]))
        patch.setattr(Backend, "load", lambda self: module(None))
        patch.setattr(tensorrt_session, "CudaDevice", NoDevice)
        yield


def build(folder: Path, checkpoint: Path, texts_file: Path, capsys: Any) -> tuple[int, str]:
    fixed = ("--batch", "1,2,4", "--seq", "1,16,40", "--data", texts_file)
    code, out, _ = call(capsys, "build", checkpoint, "--output", folder, *fixed)
    return code, out


@pytest.fixture(scope="module")
def graph(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as an engine would have it."""
    from exporter.graph.export import export_onnx

    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    export_onnx(open_checkpoint(checkpoint), path)
    return path


def run_here(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, graph: Path, capability: int = 89
) -> None:
    """A GPU, and an engine that computes what a graph does."""
    shape = open_checkpoint(checkpoint).shape
    monkeypatch.setattr(Backend, "load", lambda self: module(Engine(OnnxSession(graph, shape))))
    device = HostDevice(capability=capability)
    monkeypatch.setattr(tensorrt_session, "CudaDevice", lambda: device)


def test_where_an_engine_cannot_run_it_is_not_judged(
    checkpoint: Path, texts_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    code, out = build(folder, checkpoint, texts_file, capsys)
    assert code == 0
    assert f"engine {PLAN}: not judged: {NO_GPU}" in out
    assert out.splitlines()[-1].endswith(f"; not judged: {PLAN}")
    (engine,) = read_manifest(folder).engines
    assert (engine.parity.status, engine.parity.reason) == ("not judged", NO_GPU)
    report = json.loads((folder / "parity.json").read_text())
    assert report["engines"] == [{"file": PLAN, "status": "not judged", "reason": NO_GPU}]
    code, out, _ = call(capsys, "parity", folder, "--junit", tmp_path / "junit.xml")
    assert code == 0 and f"engine {PLAN}: not judged: {NO_GPU}" in out
    cases = {item.get("name"): item for item in ElementTree.parse(tmp_path / "junit.xml").iter()}
    skipped = cases[PLAN].find("skipped")
    assert skipped is not None and skipped.get("message") == f"not judged: {NO_GPU}"
    assert f"           not judged: {NO_GPU}" in call(capsys, "inspect", folder)[1]
    # A manifest from before says nothing, which is no verdict.
    data = json.loads((folder / "manifest.json").read_text())
    del data["engines"][0]["parity"]
    (folder / "manifest.json").write_text(json.dumps(data))
    assert read_manifest(folder).engines[0].parity.status == "not judged"


@pytest.mark.parametrize("sound", [True, False])
def test_a_build_judges_its_engine_where_it_can_run(
    sound: bool,
    checkpoint: Path,
    graph: Path,
    texts_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_here(monkeypatch, checkpoint, graph if sound else wrong(graph, tmp_path / "wrong.onnx"))
    folder = tmp_path / "out"
    code, out = build(folder, checkpoint, texts_file, capsys)
    manifest = read_manifest(folder)
    (engine,) = manifest.engines
    assert (code, manifest.passed) == ((0, True) if sound else (1, False))
    assert "not judged:" not in out
    assert engine.parity.status == ("passed" if sound else "failed")
    (found,) = json.loads((folder / "parity.json").read_text())["engines"]
    assert found["status"] == engine.parity.status
    assert found["data_sets"][0]["outputs"]["logits"]["rows"] > 0
    # The profiles of the stand-in take no batch of 8.
    assert any("batches left out: no profile" in note for note in found["notes"])
    if sound:
        assert f"engine {PLAN}: pass, tensorrt-rtx, " in out
        return
    assert engine.parity.failures[0].startswith("logits: max_relative")
    assert all(line.startswith(f"{PLAN}: logits: ") for line in manifest.parity.failures)
    assert f"FAIL {PLAN}: logits: max_relative" in out
    code, out, _ = call(capsys, "parity", folder, "--junit", tmp_path / "junit.xml")
    assert code == 1 and f"engine {PLAN}: FAIL" in out
    cases = {item.get("name"): item for item in ElementTree.parse(tmp_path / "junit.xml").iter()}
    assert cases[PLAN].find("failure") is not None
    # The graph alone, asked for by its own name, is within its limits.
    assert call(capsys, "parity", folder / "model.onnx")[0] == 0


@pytest.fixture(scope="module")
def built(
    checkpoint: Path, texts_file: Path, tmp_path_factory: pytest.TempPathFactory, builder: None
) -> Path:
    folder = tmp_path_factory.mktemp("built") / "artifact"
    from exporter import BuildConfig, Range

    config = BuildConfig(checkpoint, folder, data=texts_file, seq=Range(1, 16, 40))
    pipeline.build(config)
    return folder


def judged(folder: Path) -> EngineResult:
    (engine,) = judged_again(folder).engines
    return engine


def test_an_engine_for_another_machine_is_not_judged(
    built: Path, checkpoint: Path, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(built, tmp_path / "copy"))
    run_here(monkeypatch, checkpoint, graph, capability=120)
    assert judged(folder).parity.status == "passed"
    data = json.loads((folder / "manifest.json").read_text())
    data["engines"][0]["options"]["compute_capabilities"] = [89]
    (folder / "manifest.json").write_text(json.dumps(data))
    found = judged(folder)
    assert found.parity.status == "not judged"
    assert found.reason.startswith("built for compute capability 89, but Stand-in has 120")
    monkeypatch.setattr(Backend, "load", lambda self: replaced_version())
    assert judged(folder).reason.startswith("built by TensorRT-RTX 1.7.1.116, but 1.8.0.1 is")


def replaced_version() -> Any:
    found = module(None)
    found.__version__ = "1.8.0.1"
    return found


def test_an_engine_with_tf32_is_held_to_the_limits_of_fp16(
    built: Path, checkpoint: Path, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(built, tmp_path / "copy"))
    run_here(monkeypatch, checkpoint, graph)
    data = json.loads((folder / "manifest.json").read_text())
    data["engines"][0]["options"]["tf32"] = True
    assert EngineOptions(tf32=True).given() == ("--tf32",)
    (folder / "manifest.json").write_text(json.dumps(data))
    result = judged(folder).result
    assert result is not None and result.limits == limits_for("fp16")


def cuda_error(self: Context, stream_handle: int) -> bool:
    raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore of it")


@pytest.mark.parametrize(
    ("execute", "message"),
    [
        (cuda_error, "CUDA error: an illegal memory access was encountered"),
        (lambda self, stream_handle: False, "the engine could not be queued"),
    ],
    ids=["crash", "refusal"],
)
def test_an_engine_that_fails_while_it_runs_has_failed(
    execute: Callable[..., bool],
    message: str,
    built: Path,
    checkpoint: Path,
    graph: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_here(monkeypatch, checkpoint, graph)
    monkeypatch.setattr(Context, "execute_async_v3", execute)
    result = judged_again(built)
    assert not result
    assert f"{PLAN}: generated lengths, 'one token': {message}" in result.failures
    assert result.engines[0].parity.status == "failed"


def test_an_engine_that_cannot_be_loaded_has_failed(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backend, "load", lambda self: module(None, ("corrupt plan",)))
    monkeypatch.setattr(tensorrt_session, "CudaDevice", HostDevice)
    result = judged_again(built)
    assert not result
    assert result.failures == (
        f"{PLAN}: TensorRT-RTX cannot load it (corrupt plan); build it again",
    )
