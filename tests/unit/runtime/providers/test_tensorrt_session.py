"""The session over an engine, with a stand-in in the place of TensorRT's classes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import engine_stand_in
from support.engine_stand_in import (
    Engine,
    HostDevice,
    make_record,
    module,
)
from support.tensorrt_names import BUILDER, RUNTIME, missing_names

from exporter.deberta.checkpoint import open_checkpoint
from exporter.engine import plan_file
from exporter.engine.backend import Backend
from exporter.errors import InputError, MissingDependencyError
from exporter.graph.export import export_onnx
from exporter.model.profile import ShapeProfile
from exporter.runtime.providers import tensorrt_session
from exporter.runtime.providers.onnx_session import OnnxSession
from exporter.runtime.providers.tensorrt_session import TensorRtSession
from exporter.runtime.runtime_options import RuntimeOptions

pytestmark = pytest.mark.usefixtures("shared_traces")


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "model.rtx.plan"
    head = struct.pack("<4sIQQ", b"vtrt", 0, 2, 100) + bytes((1, 7, 1, 116))
    path.write_bytes(head + bytes(100 - len(head)))
    return path


@pytest.fixture(scope="module")
def graph(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> OnnxSession:
    """The same model in ONNX Runtime."""
    checkpoint = open_checkpoint(make_checkpoint("token-classification", num_hidden_layers=1), None)
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    export_onnx(checkpoint, path)
    return OnnxSession(path, checkpoint.shape, options=RuntimeOptions(threads=1))


@pytest.fixture
def open_session(
    graph: OnnxSession, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., TensorRtSession]:
    def make(
        engine: Engine | None, *capabilities: int, errors: tuple[str, ...] = (), **options: Any
    ) -> TensorRtSession:
        monkeypatch.setattr(Backend, "load", lambda self: module(engine, errors))
        options.setdefault("device", HostDevice())
        return TensorRtSession(plan, make_record(*capabilities), graph.shape, **options)

    return make


def ids(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(1, 1000, shape)


def test_runs_agree_with_the_graph(
    graph: OnnxSession, open_session: Callable[..., TensorRtSession]
) -> None:
    device, engine = HostDevice(), Engine(graph)
    session = open_session(engine, device=device)
    mask = np.array([[1] * 9, [1] * 4 + [0] * 5])
    # Shapes come back, so that their graphs are captured and replayed between other shapes.
    for seed, shape in enumerate(
        [(2, 9), (1, 1), (2, 9), (5, 33), (2, 9), (1, 1), (1, 8), (5, 33)]
    ):
        feeds = {"input_ids": ids(*shape, seed=seed)}
        if shape == (2, 9):
            feeds["attention_mask"] = mask
        found, expected = session.run(**feeds), graph.run(**feeds)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name].dtype == np.float32
            np.testing.assert_array_equal(found[name], value)
    assert device.captured == 3
    # One context for each shape; the second profile takes what the first does not.
    assert engine.used == [1, 0, 1, 0]
    session.close()
    with pytest.raises(InputError, match="closed"):
        session.run(input_ids=ids(1, 1))


def test_outputs_do_not_change_with_the_next_run(
    graph: OnnxSession, open_session: Callable[..., TensorRtSession]
) -> None:
    session = open_session(Engine(graph), cuda_graphs=False)
    first = session.run(input_ids=ids(2, 5, seed=1))["logits"]
    kept = first.copy()
    session.run(input_ids=ids(2, 5, seed=2))
    np.testing.assert_array_equal(first, kept)


def test_shapes_that_are_unused_are_dropped(
    graph: OnnxSession, open_session: Callable[..., TensorRtSession]
) -> None:
    engine = Engine(graph)
    session = open_session(engine)
    for length in range(3, 3 + tensorrt_session.MOST_SHAPES + 1):
        session.run(input_ids=ids(2, length))
    contexts = len(engine.used)
    session.run(input_ids=ids(2, 4))
    assert len(engine.used) == contexts
    session.run(input_ids=ids(2, 3))
    assert len(engine.used) == contexts + 1


@pytest.mark.parametrize("shape", [(6, 33), (1, 34), (6, 2)])
def test_a_shape_outside_the_profiles(
    shape: tuple[int, int], graph: OnnxSession, open_session: Callable[..., TensorRtSession]
) -> None:
    session = open_session(Engine(graph))
    with pytest.raises(InputError, match=r"the engine takes \(1, 1\) to \(1, 8\) or \(1, 3\)"):
        session.run(input_ids=ids(*shape))
    # The caller's own buffers are used as they are.
    small = {name: np.ones((2, 2), np.int64) for name in session.input_names}
    with pytest.raises(InputError, match=r"the engine takes \(1, 1\) to \(1, 8\) or \(1, 3\)"):
        session.run_buffers(**small)


@pytest.mark.parametrize("shape", [(1, 5), (1, 33), (3, 2), (4, 1)])
def test_a_batch_or_length_below_the_profile_is_filled_up(
    shape: tuple[int, int],
    graph: OnnxSession,
    open_session: Callable[..., TensorRtSession],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    profiles = (ShapeProfile.parse("3,4,5x4,9,33"),)
    monkeypatch.setattr(engine_stand_in, "PROFILES", profiles)
    monkeypatch.setattr(Engine, "num_optimization_profiles", 1)
    session = open_session(Engine(graph))
    mask = np.ones(shape, np.int64)
    mask[0, 1 + shape[1] // 2 :] = 0
    feeds = {"input_ids": ids(*shape), "attention_mask": mask}
    found, expected = session.run(**feeds)["logits"], graph.run(**feeds)["logits"]
    assert found.shape == expected.shape
    valid = mask.astype(bool)
    np.testing.assert_allclose(found[valid], expected[valid], rtol=0, atol=1e-6)


def test_choices_are_filled_up_with_copies_and_tokens_with_padding() -> None:
    given = np.arange(1, 5).reshape(1, 2, 2)
    filled = tensorrt_session.fill(given, (2, 3, 3), 0)
    choices = [[1, 2, 0], [3, 4, 0], [3, 4, 0]]
    assert filled.tolist() == [choices, choices]


def test_buffers_are_used_where_they_are(
    graph: OnnxSession, open_session: Callable[..., TensorRtSession]
) -> None:
    engine = Engine(graph)
    session = open_session(engine)
    for seed in range(3):
        feeds = {"input_ids": ids(2, 7, seed=seed), "attention_mask": np.ones((2, 7), np.int64)}
        outputs = session.run_buffers(**feeds)
        expected = graph.run(**feeds)["logits"]
        np.testing.assert_array_equal(outputs["logits"].numpy(), expected)
        # Runs of both kinds do not disturb each other.
        np.testing.assert_array_equal(session.run(**feeds)["logits"], expected)
    assert hasattr(outputs["logits"], "__dlpack__")
    assert len(engine.used) == 2


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"attention_mask": None}, "give"),
        ({"attention_mask": np.ones((2, 6), np.int64)}, "attention_mask: shape"),
        ({"input_ids": np.ones((2, 7), np.int32)}, "input_ids: torch.int32"),
        ({"input_ids": np.ones((7, 2), np.int64).T}, "contiguous"),
    ],
)
def test_buffers_that_do_not_fit(
    changes: dict[str, Any],
    names: str,
    graph: OnnxSession,
    open_session: Callable[..., TensorRtSession],
) -> None:
    feeds = {"input_ids": ids(2, 7), "attention_mask": np.ones((2, 7), np.int64), **changes}
    session = open_session(Engine(graph))
    with pytest.raises(InputError, match=names):
        session.run_buffers(**{name: value for name, value in feeds.items() if value is not None})


def test_an_engine_with_other_outputs(
    graph: OnnxSession, open_session: Callable[..., TensorRtSession]
) -> None:
    with pytest.raises(InputError, match=r"\('no_such_output',\).*token-classification has"):
        open_session(Engine(graph, ("no_such_output",)))


def test_an_engine_for_another_gpu(
    graph: OnnxSession, open_session: Callable[..., TensorRtSession]
) -> None:
    open_session(Engine(graph), 80, 89)
    with pytest.raises(InputError, match="capability 80, but Stand-in has 89"):
        open_session(Engine(graph), 80)


def test_too_little_device_memory(
    graph: OnnxSession, open_session: Callable[..., TensorRtSession]
) -> None:
    with pytest.raises(MissingDependencyError, match="the engine takes"):
        open_session(Engine(graph), device=HostDevice(free=99))
    with pytest.raises(MissingDependencyError, match=r"a run of shape \(5, 33\) takes"):
        open_session(Engine(graph), device=HostDevice(free=2000))


@pytest.mark.parametrize(
    ("error", "kind", "names"),
    [
        ("CUDA driver version is insufficient for", MissingDependencyError, "no driver"),
        ("expecting compute 8.9: incompatible device", InputError, "another GPU"),
        ("Version tag does not match", InputError, "another version of TensorRT-RTX"),
        ("who knows", InputError, r"cannot load it \(who knows\)"),
    ],
)
def test_an_engine_that_does_not_load(
    error: str,
    kind: type[Exception],
    names: str,
    open_session: Callable[..., TensorRtSession],
) -> None:
    with pytest.raises(kind, match=names):
        open_session(None, errors=(error,))


def test_an_engine_of_another_version(
    plan: Path, graph: OnnxSession, open_session: Callable[..., TensorRtSession]
) -> None:
    content = bytearray(plan.read_bytes())
    content[25] = 6
    plan.write_bytes(content)
    with pytest.raises(InputError, match=r"TensorRT-RTX 1\.6\.1\.116, but 1\.7\.1\.116"):
        open_session(Engine(graph))


def test_a_plan_that_is_cut_short(
    plan: Path, graph: OnnxSession, open_session: Callable[..., TensorRtSession]
) -> None:
    plan.write_bytes(plan.read_bytes()[:50])
    with pytest.raises(InputError, match="cut short"):
        open_session(Engine(graph))


def test_the_names_are_those_of_tensorrt_rtx() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    assert missing_names(trt, {**RUNTIME, **BUILDER}) == []
    assert plan_file._make_log(trt).errors == []
