"""Engines built by TensorRT-RTX, which needs no GPU, and builds that must fail cleanly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
pytest.importorskip("polygraphy", reason="Polygraphy is not installed")

from calibration.json_values import from_json_values, to_json_values
from exporter.artifact.engine_record import EngineOptions, EngineRecord
from exporter.deberta.checkpoint import open_checkpoint
from exporter.engine import build_engine as engine_build
from exporter.engine.backend import TENSORRT_RTX
from exporter.engine.build_engine import build_engine
from exporter.engine.layers import KernelSummary, read_kernels
from exporter.engine.plan_file import read_header
from exporter.errors import InputError, MissingDependencyError
from exporter.graph.export import export_onnx
from exporter.model.profile import CHOICES, Range, ShapeProfile
from exporter.model.task import ARCHITECTURES, Task

pytestmark = pytest.mark.usefixtures("shared_traces")

MakeCheckpoint = Callable[..., Path]
ADA = EngineOptions(compute_capabilities=(89,))
PROFILE = ShapeProfile(Range(1, 2, 5), Range(1, 17, 33))
INPUTS = ("input_ids", "attention_mask")


@pytest.fixture(scope="module")
def graph(make_checkpoint: MakeCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small classifier's graph."""
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    export_onnx(open_checkpoint(make_checkpoint(num_hidden_layers=1), None), path)
    return path


@pytest.mark.parametrize("task", ARCHITECTURES.values())
def test_every_head_builds(task: Task, make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(
        make_checkpoint(task.value, type_vocab_size=2, num_hidden_layers=1), None
    )
    export_onnx(checkpoint, tmp_path / "model.onnx")
    shape = checkpoint.config.shape(task)
    profile = PROFILE
    if shape.rank == 3:
        profile = ShapeProfile(PROFILE.batch, PROFILE.seq, CHOICES)
    plan = tmp_path / "model.rtx.plan"
    said: list[str] = []
    made = build_engine(
        TENSORRT_RTX, tmp_path / "model.onnx", plan, shape.inputs, [profile], ADA, said.append
    )
    header = read_header(plan)
    assert header.target == made.target == "tensorrt-rtx"
    assert header.version.split(".")[:3] == made.version.split(".")[:3]
    assert header.bytes == made.bytes == plan.stat().st_size
    kernels = read_kernels(tmp_path / made.layers)
    written = {tensor.name for kernel in kernels for tensor in kernel.outputs}
    assert set(shape.outputs) <= written
    assert made.attention == "expanded"
    assert made.kernels == KernelSummary.of(kernels).kinds
    assert made.activation_bytes and made.weight_bytes
    assert made.host_peak_bytes > 50 << 20
    assert any("building engine" in message for message in said)
    assert from_json_values(json.loads(json.dumps(to_json_values(made))), EngineRecord) == made


def test_several_profiles_and_gpus(graph: Path, tmp_path: Path) -> None:
    short = ShapeProfile(Range(1, 1, 1), Range(1, 8, 16))
    one = build_engine(TENSORRT_RTX, graph, tmp_path / "one.plan", INPUTS, [short], ADA)
    options = EngineOptions((89, 120), workspace_mib=4096, optimization_level=2, tf32=True)
    two = build_engine(
        TENSORRT_RTX, graph, tmp_path / "two.plan", INPUTS, [short, PROFILE], options
    )
    assert two.profiles == (short, PROFILE)
    assert two.bytes > one.bytes
    # Scratch memory follows the largest shape: that of the second profile.
    assert (two.activation_bytes or 0) > (one.activation_bytes or 0)


def test_nothing_is_imported_from_the_current_folder(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "polygraphy.py").write_text("raise SystemExit('imported')")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    plan = Path("out") / "model.rtx.plan"
    assert build_engine(TENSORRT_RTX, graph, plan, INPUTS, [PROFILE], ADA).bytes > 0


def save(path: Path, *nodes: onnx.NodeProto) -> Path:
    """A graph of int64 inputs like ours, with `nodes` on them."""
    values = [make_tensor_value_info(name, TensorProto.INT64, ["B", "S"]) for name in INPUTS]
    out = make_tensor_value_info("y", TensorProto.INT64, ["B", "S"])
    opsets = [make_opsetid("", 18), make_opsetid("deb_export", 1)]
    onnx.save(make_model(make_graph(list(nodes), "g", values, [out]), opset_imports=opsets), path)
    return path


def test_the_node_that_is_refused_is_named(tmp_path: Path) -> None:
    node = make_node("Unheard", ["input_ids"], ["y"], name="the_node")
    bad = save(tmp_path / "bad.onnx", node)
    with pytest.raises(InputError, match=r"refuses node 'the_node' \(Unheard\)"):
        build_engine(TENSORRT_RTX, bad, tmp_path / "x.plan", INPUTS, [PROFILE], ADA)
    assert not (tmp_path / "x.plan").exists()


def test_the_operator_without_its_function(tmp_path: Path) -> None:
    node = make_node("DisentangledAttention", ["input_ids"], ["y"], "att", domain="deb_export")
    bad = save(tmp_path / "bad.onnx", node)
    with pytest.raises(MissingDependencyError, match="no function for it"):
        build_engine(TENSORRT_RTX, bad, tmp_path / "x.plan", INPUTS, [PROFILE], ADA)


@pytest.mark.parametrize("content", [b"", b"not a graph"])
def test_a_file_that_is_no_graph(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "junk.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"junk\.onnx"):
        build_engine(TENSORRT_RTX, path, tmp_path / "x.plan", INPUTS, [PROFILE], ADA)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        build_engine(TENSORRT_RTX, tmp_path / "g.onnx", tmp_path / "x", INPUTS, [PROFILE])


def test_inputs_of_another_graph(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="its inputs are input_ids, attention_mask; expected"):
        build_engine(TENSORRT_RTX, graph, tmp_path / "x.plan", ("a",), [PROFILE], ADA)


def test_a_gpu_that_is_not_built_for(graph: Path, tmp_path: Path) -> None:
    options = EngineOptions(compute_capabilities=(90,))
    with pytest.raises(InputError, match="--compute-capability 90"):
        build_engine(TENSORRT_RTX, graph, tmp_path / "x.plan", INPUTS, [PROFILE], options)


def test_a_precision_that_the_gpu_has_no_kernels_for(graph: Path, tmp_path: Path) -> None:
    options = EngineOptions(compute_capabilities=(75,))
    with pytest.raises(InputError, match=r"Turing \(SM75\): FP32 GEMM is not supported"):
        build_engine(TENSORRT_RTX, graph, tmp_path / "x.plan", INPUTS, [PROFILE], options)


def test_too_little_memory_is_foreseen(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_build, "available_bytes", lambda: 1 << 20)
    with pytest.raises(MissingDependencyError, match="of memory"):
        build_engine(TENSORRT_RTX, graph, tmp_path / "x.plan", INPUTS, [PROFILE], ADA)


def test_an_interrupted_build_ends_the_builder(graph: Path, tmp_path: Path) -> None:
    def interrupt(message: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(TENSORRT_RTX, graph, tmp_path / "x.plan", INPUTS, [PROFILE], ADA, interrupt)
    assert not (tmp_path / "x.plan").exists()


def test_a_builder_whose_parent_is_gone_ends(graph: Path, tmp_path: Path) -> None:
    request = {
        "target": "tensorrt-rtx",
        "onnx": str(graph),
        "plan": str(tmp_path / "x.plan"),
        "inputs": list(INPUTS),
        "profiles": [to_json_values(PROFILE)],
        "options": to_json_values(ADA),
        "body": "graph",
    }
    root = Path(__file__).parents[3]
    worker = subprocess.Popen(
        [sys.executable, "-m", "exporter.engine.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdout.close()
    worker.stdin.write(json.dumps(request).encode() + b"\n")
    worker.stdin.close()
    assert worker.wait(60) == 1
    assert not (tmp_path / "x.plan").exists()
