"""What a build makes when no target is named: what it can, and a reason for the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from exporter import BuildConfig, Range
from exporter.artifact.engine_record import EngineOptions
from exporter.artifact.manifest import read_manifest
from exporter.cli import main
from exporter.engine import backend as backends
from exporter.engine import build_engine as engine_build
from exporter.engine import targets as targets_module
from exporter.engine.backend import TENSORRT, TENSORRT_RTX, Backend
from exporter.engine.targets import BuiltTargets, build_targets, plan_targets, skipped_text
from exporter.errors import InputError, MissingDependencyError
from exporter.pipeline.build_artifact import build

pytestmark = pytest.mark.usefixtures("shared_traces")

MakeCheckpoint = Callable[..., Path]


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with TensorRT-RTX and no GPU, whatever is installed here."""
    problems = {"tensorrt": "builds on a GPU, and nvidia-smi shows none"}
    monkeypatch.setattr(Backend, "problem", lambda self: problems.get(self.target))


@pytest.fixture
def config(make_checkpoint: MakeCheckpoint, texts_file: Path, tmp_path: Path) -> BuildConfig:
    """A small build that names no target."""
    return BuildConfig(
        model=make_checkpoint(num_hidden_layers=1),
        output=tmp_path / "out",
        data=texts_file,
        batch=Range(1, 2, 4),
        seq=Range(1, 16, 40),
        engine=EngineOptions(compute_capabilities=()),
    )


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_is_installed_is_built(config: BuildConfig, rtx: None) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    pytest.importorskip("polygraphy", reason="Polygraphy is not installed")
    manifest = build(config)
    assert manifest.passed
    assert manifest.targets == ("onnx", "tensorrt-rtx")
    assert manifest.skipped == {"tensorrt": "builds on a GPU, and nvidia-smi shows none"}
    assert read_manifest(config.output_folder) == manifest
    assert {"model.onnx", "model.rtx.plan"} <= names(config.output_folder)


def test_with_no_builder_there_is_the_graph_and_one_line(
    config: BuildConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(backends, "package_version", lambda name: None)
    arguments = ["build", config.model, "--output", config.output, "--data", config.data]
    assert main([str(item) for item in arguments]) == 0
    *_, line, last = capsys.readouterr().out.splitlines()
    assert line == (
        "not built: tensorrt (TensorRT is not installed: pip install "
        '"deb-export[tensorrt]"); tensorrt-rtx (TensorRT-RTX is not installed: pip install '
        '"deb-export[rtx]")'
    )
    assert str(config.output) in last
    assert read_manifest(config.output_folder).targets == ("onnx",)
    assert main(["inspect", str(config.output)]) == 0
    assert "not built  tensorrt (TensorRT is not" in capsys.readouterr().out


def made(named: bool, folder: Path) -> BuiltTargets:
    """What `build_targets` makes of a graph that is none."""
    graph = folder / "model.onnx"
    graph.write_bytes(b"graph")
    targets = ("tensorrt-rtx",) if named else None
    config = BuildConfig(targets=targets)
    plan = plan_targets(config.targets, config.engine)
    return build_targets(plan, config.engine, graph, ("input_ids",), (), lambda said: None)


def test_an_engine_that_would_not_fit_is_left_out(
    tmp_path: Path, rtx: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_build, "available_bytes", lambda: 1 << 20)
    built = made(False, tmp_path)
    assert (built.targets, built.engines) == (("onnx",), ())
    assert "of memory and 0.0 GiB are free" in built.skipped["tensorrt-rtx"]
    with pytest.raises(MissingDependencyError, match=r"of memory and 0\.0 GiB are free"):
        made(True, tmp_path)


def test_an_engine_that_fails_leaves_nothing_of_itself(
    tmp_path: Path, rtx: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(backend: Backend, onnx: Path, plan: Path, *given: object) -> None:
        plan.write_bytes(b"a part of it")
        raise InputError("TensorRT-RTX: sm80 has no\nkernels")

    monkeypatch.setattr(targets_module, "build_engine", fail)
    assert made(False, tmp_path).skipped["tensorrt-rtx"] == "TensorRT-RTX: sm80 has no kernels"
    assert names(tmp_path) == {"model.onnx"}
    with pytest.raises(InputError, match="sm80 has no"):
        made(True, tmp_path)


def test_options_of_one_builder_leave_the_other_out(rtx: None) -> None:
    plan = plan_targets(None, EngineOptions(timing_cache=Path("cache")))
    assert plan.backends == ()
    assert "--timing-cache: TensorRT-RTX has no such option" in plan.skipped["tensorrt-rtx"]


def test_targets_that_are_named_are_built_or_refused(rtx: None) -> None:
    plan = plan_targets(("tensorrt-rtx", "onnx", "tensorrt-rtx"), EngineOptions())
    assert (plan.backends, plan.named, plan.skipped) == ((TENSORRT_RTX,), True, {})
    with pytest.raises(MissingDependencyError, match="--target tensorrt: builds on a GPU"):
        plan_targets(("onnx", "tensorrt"), EngineOptions())


def test_both_are_built_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backend, "problem", lambda self: None)
    plan = plan_targets(None, EngineOptions())
    assert (plan.backends, plan.skipped) == ((TENSORRT, TENSORRT_RTX), {})


def test_the_line_names_every_reason() -> None:
    assert skipped_text({"a": "no GPU", "b": "too old"}) == "a (no GPU); b (too old)"
