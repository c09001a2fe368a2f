"""Half-precision graphs as engines of TensorRT-RTX, which is strongly typed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from support.half_models import convert

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
pytest.importorskip("polygraphy", reason="Polygraphy is not installed")

from calibration.ranges import measure_ranges
from exporter.artifact.engine_record import EngineOptions, EngineRecord
from exporter.deberta.checkpoint import open_checkpoint
from exporter.engine.backend import TENSORRT_RTX
from exporter.engine.build_engine import build_engine
from exporter.graph.export import export_onnx
from exporter.model.profile import Range, ShapeProfile
from exporter.precision.half.types import HalfName
from exporter.runtime.providers.onnx_session import open_fp32

pytestmark = pytest.mark.usefixtures("shared_traces")

MakeCheckpoint = Callable[..., Path]
ADA = EngineOptions(compute_capabilities=(89,))
PROFILE = ShapeProfile(Range(1, 2, 4), Range(1, 32, 64))


@pytest.fixture(scope="module")
def graph(make_checkpoint: MakeCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layer with heads of 64, as all published checkpoints have."""
    widths = {"hidden_size": 128, "pooler_hidden_size": 128, "intermediate_size": 256}
    checkpoint = make_checkpoint(num_hidden_layers=1, num_attention_heads=2, **widths)
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    export_onnx(open_checkpoint(checkpoint), path)
    return path


def build(path: Path) -> EngineRecord:
    plan = path.with_suffix(".plan")
    inputs = ("input_ids", "attention_mask")
    return build_engine(TENSORRT_RTX, path, plan, inputs, [PROFILE], ADA)


@pytest.mark.parametrize(("dtype", "name"), [("fp16", "Half"), ("bf16", "BFloat16")])
def test_the_attention_is_one_kernel(graph: Path, dtype: HalfName, name: str) -> None:
    ids = np.random.default_rng(0).integers(0, 1616, (2, 33))
    ranges = measure_ranges(
        graph, [{"input_ids": ids, "attention_mask": np.ones_like(ids)}], open_fp32
    )
    path, report = convert(graph, dtype, ranges)
    assert report.fp32_terms == ()
    exact, half = build(graph), build(path)
    assert (exact.attention, half.attention) == ("expanded", "fused")
    assert half.dtypes[name] > half.dtypes["Float"]
    # Products take their bias, activation and casts along: no kernel only casts.
    assert sum(half.kernels.values()) < sum(exact.kernels.values())


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_a_graph_with_fp32_islands_builds(graph: Path, dtype: HalfName) -> None:
    """Without ranges the scores are fp32, and so is here the attention's first reader."""
    model = ir.load(graph)
    ids = np.random.default_rng(0).integers(0, 1616, (2, 33))
    ranges = measure_ranges(
        graph, [{"input_ids": ids, "attention_mask": np.ones_like(ids)}], open_fp32
    )
    attention = next(node for node in model.graph if node.domain == "deb_export")
    if dtype == "fp16":
        del ranges[attention.outputs[0].name or ""]
        path, report = convert(graph, dtype, ranges)
        assert report.attention_nodes == 0
    else:
        path, report = convert(graph, dtype, None)
        assert len(report.fp32_terms) == 3
    assert build(path).attention == "expanded"
