"""The session over an engine, with a stand-in that computes at the addresses it is given.

The stand-in has the names and the manners of TensorRT's classes: shapes are set on a context, and
inputs and outputs are addresses. It computes with ONNX Runtime, so the outputs can be compared.
"""

from __future__ import annotations

import ctypes
import shutil
import struct
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.tensorrt_names import BUILDER, RUNTIME, missing_names

from exporter.artifact.engine_options import EngineOptions
from exporter.artifact.engine_record import EngineRecord
from exporter.deberta.checkpoint import open_checkpoint
from exporter.engine import deserialize
from exporter.engine.backend import Backend
from exporter.engine.cuda import Gpu, check_device_memory, find_gpu
from exporter.errors import InputError, MissingDependencyError
from exporter.graph.export import export_onnx
from exporter.model.profile import ShapeProfile
from exporter.runtime.options import RuntimeOptions
from exporter.runtime.providers import tensorrt_session
from exporter.runtime.providers.onnx_session import OnnxSession
from exporter.runtime.providers.tensorrt_session import TensorRtSession

Mode = Enum("Mode", ["INPUT", "OUTPUT"])
Types = Enum("Types", ["FLOAT", "HALF", "BF16", "INT64"])
PROFILES = (ShapeProfile.parse("1,1,1x1,4,8"), ShapeProfile.parse("1,2,5x3,9,33"))


class HostDevice:
    """Memory of the host in place of a GPU's."""

    stream = 7

    def __init__(self, free: int = 1 << 30, capability: int = 89) -> None:
        self.free, self.gpu, self.captured = free, Gpu("Stand-in", capability), 0

    def free_bytes(self) -> int:
        return self.free

    def empty(self, elements: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.full((elements,), 99, dtype=dtype)

    def queue(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def synchronize(self) -> None:
        pass

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self.captured += 1
        return work


class Context:
    """Runs the graph on what lies at its addresses."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.profile = engine, -1
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory and size >= self.engine.device_memory_size_v2

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        assert stream_handle == HostDevice.stream
        self.profile = profile_index
        self.engine.used.append(profile_index)
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return PROFILES[self.profile].takes(shape)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return True

    def array(self, name: str, shape: tuple[int, ...], kind: Any) -> np.ndarray[Any, Any]:
        cells = (kind * prod(shape)).from_address(self.addresses[name])
        return np.ctypeslib.as_array(cells).reshape(shape)

    def execute_async_v3(self, stream_handle: int) -> bool:
        feeds = {n: self.array(n, s, ctypes.c_int64) for n, s in self.shapes.items()}
        for name, value in self.engine.graph.run(**feeds).items():
            self.array(name, value.shape, ctypes.c_float)[...] = value
        return True


class Engine:
    """An engine's facts, and its contexts."""

    num_optimization_profiles = len(PROFILES)
    device_memory_size_v2 = 1000

    def __init__(self, graph: OnnxSession, outputs: tuple[str, ...] | None = None) -> None:
        self.graph, self.used = graph, []  # type: ignore[var-annotated]
        self.names = [*graph.input_names, *(outputs or graph.output_names)]
        self.num_io_tensors = len(self.names)

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> Mode:
        return Mode.INPUT if name in self.graph.input_names else Mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Types:
        return Types.FLOAT

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return list(PROFILES[profile].shapes)

    def create_execution_context(self, strategy: object) -> Context:
        return Context(self)


class Logger:
    ERROR, INTERNAL_ERROR = 1, 0


def module(engine: Engine | None, errors: tuple[str, ...] = ()) -> SimpleNamespace:
    """What `import tensorrt` gives, as far as the session uses it."""

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
            for error in errors:
                self.logger.log(Logger.ERROR, error)
            return engine

    return SimpleNamespace(
        __version__="1.7.1.116",
        ILogger=Logger,
        Runtime=Runtime,
        TensorIOMode=Mode,
        DataType=Types,
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED=1),
    )


def make_record(*capabilities: int) -> EngineRecord:
    options = EngineOptions(tuple(capabilities))
    return EngineRecord(
        "tensorrt-rtx",
        "m.plan",
        "m.json",
        "1.7.1.116",
        PROFILES,
        options,
        100,
        0,
        0,
        "",
        {},
        {},
        1,
        1,
    )


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


@pytest.mark.parametrize("shape", [(6, 33), (1, 34), (2, 2)])
def test_a_shape_outside_the_profiles(
    shape: tuple[int, int], graph: OnnxSession, open_session: Callable[..., TensorRtSession]
) -> None:
    session = open_session(Engine(graph))
    with pytest.raises(InputError, match=r"the engine takes \(1, 1\) to \(1, 8\) or \(1, 3\)"):
        session.run(input_ids=ids(*shape))


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
    with pytest.raises(InputError, match=r"\['no_such_output'\].*token-classification has"):
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


def test_no_driver() -> None:
    with pytest.raises(MissingDependencyError, match="no NVIDIA driver"):
        find_gpu("libno_such_driver.so.1")


@pytest.mark.parametrize(
    ("devices", "names"),
    [(0, "no GPU is visible"), (-1, "the NVIDIA driver fails with CUDA error 999")],
)
def test_a_driver_without_a_gpu(devices: int, names: str, tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match=names):
        find_gpu(str(driver(tmp_path, devices)))


def test_a_driver_with_a_gpu(tmp_path: Path) -> None:
    assert find_gpu(str(driver(tmp_path, 1))) == Gpu("Ada", 89)


def driver(folder: Path, devices: int) -> Path:
    """A driver's library that knows a number of GPUs; -1 for one that does not work."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    source = """
        #include <string.h>
        int cuInit(unsigned flags) { return DEVICES < 0 ? 999 : DEVICES == 0 ? 100 : 0; }
        int cuDeviceGet(int* device, int index) { *device = 7; return index < DEVICES ? 0 : 101; }
        int cuDeviceGetName(char* name, int size, int device) {
          strncpy(name, "Ada", size);
          return 0;
        }
        int cuDeviceGetAttribute(int* number, int attribute, int device) {
          *number = attribute == 75 ? 8 : attribute == 76 ? 9 : -1;
          return device == 7 ? 0 : 101;
        }
    """
    path = folder / "libcuda.so.1"
    command = ["cc", "-shared", "-fPIC", f"-DDEVICES={devices}", "-x", "c", "-", "-o", str(path)]
    subprocess.run(command, input=source, text=True, check=True)
    return path


def test_device_memory_that_is_enough() -> None:
    check_device_memory("it", 5, 5)


def test_the_names_are_those_of_tensorrt_rtx() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    assert missing_names(trt, {**RUNTIME, **BUILDER}) == []
    assert deserialize._make_log(trt).errors == []
