"""The demo checkpoint becomes an engine in every precision that this version builds."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
pytest.importorskip("polygraphy", reason="Polygraphy is not installed")

import exporter
from exporter.config import PRECISIONS, BuildConfig, Range
from exporter.engine.options import EngineOptions

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
    assert engine.attention in ("expanded", "fused")
