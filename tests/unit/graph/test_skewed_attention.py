"""The body for short texts: the same numbers, read in slices, and which builds take it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.half_models import convert, run_rounded
from support.site_graphs import export_random, feeds, run

import exporter
from calibration.ranges import measure_ranges
from exporter.deberta.checkpoint import open_checkpoint
from exporter.graph.export import export_onnx
from exporter.model.profile import Range
from exporter.model.task import Task
from exporter.precision.half.types import HalfName
from exporter.runtime.providers.onnx_session import open_fp32

TASK = Task.TOKEN_CLASSIFICATION


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, object]]:
    """A random model's graph with gathers, that with skewing, and the model's fields."""
    folder = tmp_path_factory.mktemp("skewed")
    gathering, fields = export_random(folder, TASK, type_vocab_size=0)
    skewing = folder / "skew.onnx"
    export_onnx(open_checkpoint(folder, TASK), skewing, reading="skew")
    onnx.checker.check_model(str(skewing), full_check=True)
    return gathering, skewing, fields


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (2, 2), (3, 63), (2, 77), (1, 200)])
def test_both_bodies_give_the_same(
    batch: int, length: int, graphs: tuple[Path, Path, dict[str, object]]
) -> None:
    gathering, skewing, fields = graphs
    inputs = feeds(fields, TASK, batch, length)
    (expected,), (found,) = run(gathering, inputs), run(skewing, inputs)
    mask = inputs["attention_mask"].astype(bool)
    assert np.abs(found - expected)[mask].max() < 5e-6 * np.abs(expected[mask]).max()


def test_what_layers_have_in_common_is_computed_once(
    graphs: tuple[Path, Path, dict[str, object]], tmp_path: Path
) -> None:
    _, skewing, fields = graphs
    run(skewing, feeds(fields, TASK), tmp_path / "optimized.onnx")
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert kinds["GatherElements"] == kinds["Expand"] == 0
    assert (kinds["Range"], kinds["Clip"], kinds["Where"]) == (1, 2, 1)
    # Of each layer: the rows of two tables. Once: the slots of both, the embedding.
    assert kinds["Gather"] == 2 * 2 + 2 + 1


def test_tensorrt_rtx_builds_it(graphs: tuple[Path, Path, dict[str, object]]) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(graphs[1])), [
        parser.get_error(index).desc() for index in range(parser.num_errors)
    ]
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        profile.set_shape(network.get_input(index).name, (1, 1), (3, 17), (8, 64))
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None and engine.nbytes > 10_000


@pytest.mark.parametrize(
    ("longest", "targets", "reading"),
    [
        (128, ("onnx",), "skew"),
        (129, ("onnx",), "gather"),
        (128, None, "gather"),
        (128, "no builder", "skew"),
        (64, ("onnx", "tensorrt-rtx"), "gather"),
    ],
)
def test_the_length_profile_decides(
    longest: int,
    targets: tuple[str, ...] | str | None,
    reading: str,
    make_checkpoint: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class AskedError(Exception):
        pass

    class Builder:
        target = "tensorrt-rtx"

        def check(self, options: object) -> None:
            """It is installed."""

    def spy(*arguments: object, reading: str = "gather", **options: object) -> None:
        raise AskedError(reading)

    monkeypatch.setattr("exporter.graph.export.export_onnx", spy)
    builders = {} if targets == "no builder" else {"tensorrt-rtx": Builder()}
    monkeypatch.setattr("exporter.engine.targets.BACKENDS", builders)
    targets = None if isinstance(targets, str) else targets
    config = exporter.BuildConfig(
        model=make_checkpoint(), output=tmp_path / "out", seq=Range(1, 16, longest), targets=targets
    )
    with pytest.raises(AskedError, match=reading):
        exporter.build(config)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_a_half_graph_keeps_the_reading(
    dtype: HalfName, graphs: tuple[Path, Path, dict[str, object]]
) -> None:
    inputs = feeds(graphs[2], TASK)
    exact = run(graphs[0], inputs)[0]
    errors = []
    for graph in graphs[:2]:
        half, _ = convert(graph, dtype, measure_ranges(graph, [inputs], open_fp32))
        (function,) = onnx.load(half).functions
        gathers = "GatherElements" in {node.op_type for node in function.node}
        assert gathers == (graph == graphs[0])
        errors.append(float(np.sqrt(np.mean((run_rounded(half, inputs)[0] - exact) ** 2))))
    gathering, skewing = errors
    assert 0 < skewing < 1.5 * gathering
