"""Every precision and every head becomes an engine by `deb-export build`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
pytest.importorskip("polygraphy", reason="Polygraphy is not installed")

import exporter
from exporter.artifact.engine_record import EngineOptions
from exporter.artifact.manifest import read_manifest
from exporter.cli import main
from exporter.engine.layers import read_kernels
from exporter.model.profile import Range
from exporter.model.task import ARCHITECTURES, Task
from exporter.pipeline.config import PRECISIONS, BuildConfig

pytestmark = pytest.mark.usefixtures("shared_traces")

# What TensorRT calls each type.
TYPES = {"fp32": "Float", "fp16": "Half", "bf16": "BFloat16", "int8": "Int8", "fp8": "FP8"}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision(precision: str, tmp_path: Path) -> None:
    config = BuildConfig(
        output=tmp_path / "artifact",
        precision=precision,
        targets=("tensorrt-rtx",),
        batch=Range(1, 4, 8),
        seq=Range(1, 32, 64),
        engine=EngineOptions(compute_capabilities=(89, 120)),
    )
    manifest = exporter.build(config)
    assert manifest.passed
    (engine,) = manifest.engines
    assert engine.dtypes[TYPES[precision]] > 0
    half = precision in ("fp16", "bf16")
    assert engine.body == ("standard" if half else "graph")
    assert engine.attention == ("fused" if half else "expanded")


@pytest.mark.parametrize("task", ARCHITECTURES.values())
def test_every_head(
    task: Task,
    make_checkpoint: Callable[..., Path],
    texts_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "artifact"
    arguments = ["build", make_checkpoint(task.value, num_hidden_layers=1), "--data", texts_file]
    arguments += ["--output", output, "--target", "tensorrt-rtx", "--compute-capability", "89"]
    arguments += ["--batch", "1,2,4", "--seq", "1,8,24", "--attention", "standard"]
    assert main([str(item) for item in arguments]) == 0
    assert f"{output}: {task.value}, fp32" in capsys.readouterr().out
    manifest = read_manifest(output)
    (engine,) = manifest.engines
    assert (manifest.task, engine.body, engine.attention) == (task.value, "standard", "expanded")
    kernels = read_kernels(output / engine.layers)
    written = {tensor.name for kernel in kernels for tensor in kernel.outputs}
    assert set(manifest.outputs) <= written
