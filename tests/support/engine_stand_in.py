"""An engine that computes at the addresses it is given.

It has the names and the manners of TensorRT's classes: shapes are set on a context, and inputs and
outputs are addresses. It computes with ONNX Runtime, so the outputs can be compared.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import torch

from exporter.artifact.engine_record import EngineOptions, EngineRecord
from exporter.engine.cuda import Gpu
from exporter.model.profile import ShapeProfile
from exporter.runtime.providers.onnx_session import OnnxSession

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


def wrong(graph: Path, path: Path) -> Path:
    """A classifier's graph whose scores are half a unit too high, written to `path`."""
    model = onnx.load(graph)
    bias = next(t for t in model.graph.initializer if t.name == "classifier.bias")
    values = onnx.numpy_helper.to_array(bias) + np.float32(0.5)
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(model, path)
    return path
