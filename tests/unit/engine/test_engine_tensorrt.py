"""The path of the full TensorRT, which needs a GPU, with TensorRT-RTX under its name.

The two have the same classes. So this runs what only the target `tensorrt` runs: its configuration
with Polygraphy, timing cache, hardware compatibility; not its builder.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
pytest.importorskip("polygraphy", reason="Polygraphy is not installed")

from exporter.artifact.engine_record import EngineOptions
from exporter.deberta.checkpoint import open_checkpoint
from exporter.engine.backend import TENSORRT, Backend
from exporter.engine.build_engine import build_engine
from exporter.errors import InputError
from exporter.graph.export import export_onnx
from exporter.model.profile import ShapeProfile
from plugins.disentangled_attention import tensorrt_plugin

pytestmark = pytest.mark.usefixtures("shared_traces")

INPUTS = ("input_ids", "attention_mask")
PROFILE = ShapeProfile.parse("1,2,4x1,9,33")


@pytest.fixture
def graph(
    make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A graph, where a module called tensorrt can be imported by the builder's process."""
    stand_in = tmp_path / "stand-in" / "tensorrt"
    stand_in.mkdir(parents=True)
    (stand_in / "__init__.py").write_text(
        'from tensorrt_rtx import *\n\n__version__ = "11.4.0.106"\n'
    )
    monkeypatch.setenv("PYTHONPATH", str(stand_in.parent))
    monkeypatch.setattr(Backend, "problem", lambda self: None)
    monkeypatch.setattr(tensorrt_plugin, "problem", lambda: None)
    export_onnx(open_checkpoint(make_checkpoint(num_hidden_layers=1)), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_options_reach_the_builder(graph: Path) -> None:
    cache = graph.parent / "timing.cache"
    options = EngineOptions(
        workspace_mib=1024,
        optimization_level=3,
        timing_cache=cache,
        hardware_compatible=True,
        tf32=True,
    )
    said: list[str] = []
    for _ in range(2):  # the second time, the cache is there
        made = build_engine(
            TENSORRT, graph, graph.parent / "model.plan", INPUTS, [PROFILE], options, said.append
        )
        assert cache.stat().st_size > 0
    assert (made.target, made.version) == ("tensorrt", "11.4.0.106")
    assert made.layers == "model.layers.json"
    assert made.attention == "expanded"
    # The plugin comes first, which TensorRT-RTX has no module for.
    assert made.body == "graph"
    refused = [line for line in said if line.startswith("tensorrt: not with the plugin (")]
    assert len(refused) == 2
    assert "tensorrt.plugin" in refused[0]


def test_a_plugin_that_is_asked_for_is_not_replaced(graph: Path) -> None:
    options = EngineOptions(attention="plugin", hardware_compatible=True)
    with pytest.raises(InputError, match=r"tensorrt\.plugin"):
        build_engine(TENSORRT, graph, graph.parent / "model.plan", INPUTS, [PROFILE], options)
    assert not (graph.parent / "model.plan").exists()


def test_an_option_that_the_builder_lacks(graph: Path) -> None:
    # TensorRT-RTX has the flag and not the library that it needs.
    options = EngineOptions(version_compatible=True, attention="graph")
    with pytest.raises(InputError, match=r"TensorRT cannot build .*libnvinfer_lean"):
        build_engine(TENSORRT, graph, graph.parent / "model.plan", INPUTS, [PROFILE], options)
