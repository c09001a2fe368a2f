"""ONNX's `Attention` with the summed bias computes what the graph's own body computes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from safetensors.torch import load_file, save_file
from support.half_models import convert, run, widened

from calibration.ranges import measure_ranges
from exporter.artifact.engine_record import EngineOptions
from exporter.deberta.checkpoint import open_checkpoint
from exporter.engine.backend import TENSORRT_RTX
from exporter.engine.build_engine import build_engine
from exporter.errors import InputError
from exporter.graph.export import export_onnx
from exporter.graph.transforms.standard_attention import pays, swap_body
from exporter.model.profile import ShapeProfile
from exporter.precision.half.types import HalfName
from exporter.runtime.providers.onnx_session import OnnxSession, open_fp32
from exporter.runtime.runtime_options import RuntimeOptions

pytestmark = pytest.mark.usefixtures("shared_traces")

MakeCheckpoint = Callable[..., Path]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pos_att_type": ["c2p"], "position_buckets": -1, "max_relative_positions": 20},
        {"pos_att_type": ["p2c"], "share_att_key": False},
        {"pos_att_type": []},
    ],
)
def test_outputs_are_the_same(
    changes: dict[str, object], make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    folder = make_checkpoint("token-classification", num_hidden_layers=2, **changes)
    checkpoint = open_checkpoint(folder, None)
    export_onnx(checkpoint, tmp_path / "model.onnx", external_data=True)
    assert swap_body(tmp_path / "model.onnx", tmp_path / "swapped.onnx") == 2
    shape = checkpoint.shape
    swapped = onnx.load(tmp_path / "swapped.onnx", load_external_data=False)
    (function,) = swapped.functions
    assert [node.op_type for node in function.node].count("Attention") == 1
    own = OnnxSession(tmp_path / "model.onnx", shape, options=RuntimeOptions(threads=1))
    standard = OnnxSession(tmp_path / "swapped.onnx", shape, options=RuntimeOptions(threads=1))
    for batch, length in ((1, 1), (2, 9), (3, 77)):
        random = np.random.default_rng(length)
        mask = np.arange(length) < random.integers(1, length + 1, (batch, 1))
        feeds = {"input_ids": random.integers(1, 1000, (batch, length)), "attention_mask": mask}
        expected, found = own.run(**feeds)["logits"], standard.run(**feeds)["logits"]
        difference = np.abs(expected - found)[mask].max()
        assert difference <= 2e-6 * np.abs(expected[mask]).max()


@pytest.fixture(scope="module", params=["full", "first"])
def peaked(
    request: pytest.FixtureRequest,
    make_checkpoint: MakeCheckpoint,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A graph whose scores are far apart, so that their rounding shows."""
    folder = tmp_path_factory.mktemp("peaked")
    checkpoint = shutil.copytree(make_checkpoint(num_hidden_layers=1), folder / "checkpoint")
    weights = load_file(checkpoint / "model.safetensors")
    for name in ("query_proj.weight", "key_proj.weight"):
        key = f"deberta.encoder.layer.0.attention.self.{name}"
        weights[key] = weights[key] * 4
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    path = folder / "model.onnx"
    export_onnx(open_checkpoint(checkpoint), path, last_layer=request.param)
    return path


def feeds(batch: int, length: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(length)
    mask = np.arange(length) < random.integers(1, length + 1, (batch, 1))
    return {
        "input_ids": random.integers(1, 1000, (batch, length)),
        "attention_mask": mask.astype(np.int64),
    }


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_loses_no_more_than_the_portable_body(peaked: Path, dtype: HalfName) -> None:
    """Both with every half value rounded, against fp32."""
    inputs = [feeds(1, 2), feeds(4, 63), feeds(3, 77)]
    path, report = convert(peaked, dtype, measure_ranges(peaked, inputs, open_fp32))
    assert report.fp32_terms == ()
    assert (pays(path), pays(peaked)) == (True, False)
    swapped = path.with_name(f"swapped-{dtype}.onnx")
    swap_body(path, swapped)
    # Not rounded to the type of the graph, in which it would be off in every score alike.
    (function,) = ir.load(swapped).functions.values()
    constants = {
        node.outputs[0].name: node.attributes["value"].as_tensor().numpy()
        for node in function
        if node.op_type == "Constant"
    }
    factors = [node.inputs[1].name for node in function if node.op_type == "Mul"]
    scales = [constants[name] for name in factors if name in constants]
    exact_scale = np.float32(1 / np.sqrt(3 * 8))
    assert scales == [exact_scale, exact_scale]

    def errors(graph: Path) -> float:
        rounded = widened(graph)
        lost = [run(rounded, item)[0] - run(peaked, item)[0] for item in inputs]
        return float(np.sqrt(np.mean(np.concatenate(lost) ** 2)))

    own, standard = errors(path), errors(swapped)
    assert 0 < standard <= 2 * own


def test_terms_that_stay_in_fp32_are_not_narrowed(peaked: Path, tmp_path: Path) -> None:
    path, report = convert(peaked, "fp16", None)
    assert len(report.fp32_terms) == 3
    assert not pays(path)
    message = "keeps content_to_content, content_to_position, position_to_content of the attention"
    with pytest.raises(InputError, match=message):
        swap_body(path, tmp_path / "x.onnx")


def test_it_builds_and_nothing_is_left(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    checkpoint = open_checkpoint(make_checkpoint(num_hidden_layers=1), None)
    export_onnx(checkpoint, tmp_path / "model.onnx")
    options = EngineOptions(compute_capabilities=(89,), attention="standard")
    profile = ShapeProfile.parse("1,2,4x1,9,33")
    inputs = ("input_ids", "attention_mask")
    made = build_engine(
        TENSORRT_RTX, tmp_path / "model.onnx", tmp_path / "x.plan", inputs, [profile], options
    )
    # In fp32 no fused kernel fits, so that TensorRT takes the operator apart.
    assert made.attention == "expanded"
    assert made.options.attention == "standard"
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "x.plan", "x.layers.json"}


def test_a_graph_without_our_operator(tmp_path: Path) -> None:
    value = make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = make_graph([make_node("Neg", ["x"], ["y"])], "g", [value], [out])
    onnx.save(make_model(graph, opset_imports=[make_opsetid("", 20)]), tmp_path / "other.onnx")
    with pytest.raises(InputError, match="has no DisentangledAttention"):
        swap_body(tmp_path / "other.onnx", tmp_path / "x.onnx")
    assert not pays(tmp_path / "other.onnx")
