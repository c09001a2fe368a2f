"""Options and backends refuse what cannot be built, by name and before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from calibration.json_values import from_json_values, to_json_values
from exporter.artifact.engine_record import EngineOptions
from exporter.deberta.configuration import DebertaConfig
from exporter.engine import backend as backends
from exporter.engine.backend import TENSORRT, TENSORRT_RTX, Backend, release
from exporter.errors import InputError, MissingDependencyError
from exporter.model.model_shape import ModelShape
from exporter.model.task import Task
from plugins.disentangled_attention import tensorrt_plugin

FIELDS = {
    "model_type": "deberta-v2",
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 160,
}


def shape(task: Task = Task.BASE, **changes: object) -> ModelShape:
    return DebertaConfig.from_dict({**FIELDS, **changes}).shape(task)


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"compute_capabilities": (8,)}, "--compute-capability 8"),
        ({"compute_capabilities": (89, 89)}, "twice"),
        ({"attention": "fast"}, "--attention 'fast'"),
        ({"workspace_mib": 0}, "--workspace 0"),
        ({"optimization_level": 6}, "--optimization-level 6"),
        ({"optimization_level": -1}, "--optimization-level -1"),
    ],
)
def test_options_out_of_range(fields: dict[str, object], names: str) -> None:
    with pytest.raises(InputError, match=names):
        EngineOptions(**fields)  # type: ignore[arg-type]


def test_options_survive_json() -> None:
    options = EngineOptions((89, 120), 512, 3, Path("cache"), strip_weights=True)
    assert from_json_values(to_json_values(options), EngineOptions) == options


def test_capabilities_are_numbers() -> None:
    assert EngineOptions.parse_capabilities("89,120") == (89, 120)
    with pytest.raises(InputError, match=r"'8\.9'"):
        EngineOptions.parse_capabilities("8.9")


def test_versions_are_compared_as_numbers() -> None:
    assert release("10.13.0.post1") == (10, 13, 0)
    assert release("9.9") < TENSORRT.oldest <= release("10.13") < release("11.4.0.10")


def test_a_builder_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "package_version", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install .deb-export\[tensorrt\]"):
        TENSORRT.check(EngineOptions())


def test_a_builder_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "package_version", lambda name: "1.4.0")
    with pytest.raises(MissingDependencyError, match=r"1\.4\.0 is too old, 1\.5 is needed"):
        TENSORRT_RTX.check(EngineOptions())


@pytest.mark.parametrize(
    ("attention", "problem", "pays", "bodies"),
    [
        ("auto", None, False, ("plugin", "graph")),
        ("auto", None, True, ("plugin", "standard", "graph")),
        ("auto", "no Triton", False, ("graph",)),
        ("auto", "no Triton", True, ("standard", "graph")),
        ("plugin", None, True, ("plugin",)),
        ("graph", None, True, ("graph",)),
        ("standard", None, False, ("standard",)),
    ],
)
def test_forms_of_the_attention(
    attention: str,
    problem: str | None,
    pays: bool,
    bodies: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tensorrt_plugin, "problem", lambda: problem)
    options = EngineOptions(attention=attention)
    assert TENSORRT.bodies(options, standard_pays=pays) == bodies
    assert "plugin" not in TENSORRT_RTX.bodies(EngineOptions(), standard_pays=pays)


def test_the_plugin_needs_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backend, "problem", lambda self: None)
    monkeypatch.setattr(tensorrt_plugin, "find_spec", lambda name: None)
    TENSORRT.check(EngineOptions())
    with pytest.raises(
        MissingDependencyError, match=r"--attention plugin: Triton is not .*\[triton\]"
    ):
        TENSORRT.check(EngineOptions(attention="plugin"))


def test_tensorrt_needs_a_gpu_to_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "package_version", lambda name: "11.4.0")
    monkeypatch.setattr(backends, "find_spec", lambda name: object())
    monkeypatch.setattr(backends, "gpus", lambda: ())
    assert "nvidia-smi shows none" in (TENSORRT.problem() or "")
    monkeypatch.setattr(backends, "gpus", lambda: ("NVIDIA L4, 580.1",))
    assert TENSORRT.problem() is None
    with pytest.raises(InputError, match="--compute-capability: TensorRT builds for the GPU"):
        TENSORRT.check(EngineOptions(compute_capabilities=(89,)))


@pytest.mark.parametrize(
    ("options", "error", "names"),
    [
        (EngineOptions(timing_cache=Path("x")), InputError, "--timing-cache"),
        (EngineOptions(version_compatible=True), InputError, "--version-compatible"),
        (EngineOptions(hardware_compatible=True), InputError, "--hardware-compatible"),
        (EngineOptions(attention="plugin"), MissingDependencyError, "no plugins from Python"),
        (EngineOptions(refittable=True), MissingDependencyError, "--refittable"),
        (EngineOptions(strip_weights=True), MissingDependencyError, "--strip-weights"),
    ],
)
def test_what_tensorrt_rtx_does_not_build_here(
    options: EngineOptions, error: type[Exception], names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "gpus", lambda: ())
    with pytest.raises(error, match=names):
        TENSORRT_RTX.check(options)
