"""A .plan file: what its first bytes tell, with no runtime, and loading it on a GPU.

The layout of the first bytes is the one that NVIDIA's `trtexec --getPlanVersionOnly` reads: a tag,
the version of the format at byte 4, the size of the file at 16, the builder's version in four bytes
at 24.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from exporter.engine.backend import BACKENDS, Backend
from exporter.errors import InputError, MissingDependencyError, OtherMachineError

_HEADER = struct.Struct("<4sI8xQ4B")


@dataclass(frozen=True)
class PlanHeader:
    """The header of a plan: its target, "tensorrt" or "tensorrt-rtx", and the size it must have.

    `version` is the builder's, such as `11.1.0.106`, its last part modulo 256.
    """

    target: str
    version: str
    bytes: int

    @property
    def backend(self) -> Backend:
        """The builder."""
        return BACKENDS[self.target]


def read_header(path: Path) -> PlanHeader:
    """The header of the plan at `path`.

    Raises:
        InputError: no such file, not a plan, or one that is cut short.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER.size)
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    tags = {backend.tag: backend for backend in BACKENDS.values()}
    backend = tags.get(head[:4])
    if backend is None or len(head) < _HEADER.size:
        raise InputError(f"{path}: not a TensorRT engine; build it again")
    _, layout, expected, *version = _HEADER.unpack(head)
    if layout != 0:
        raise InputError(
            f"{path}: an engine in format {layout}, which this version does not read; "
            "build it again"
        )
    if size != expected:
        state = "cut short" if size < expected else "longer than it should be"
        raise InputError(f"{path}: {state}: {size} bytes instead of {expected}; copy it again")
    return PlanHeader(backend.target, ".".join(map(str, version)), expected)


def check_version(path: Path, header: PlanHeader, installed: str) -> None:
    """Refuse an engine of another version than the `installed` runtime.

    Raises:
        OtherMachineError: the versions differ in what must be equal: all but the build.
    """
    if header.version.split(".")[:3] != installed.split(".")[:3]:
        raise OtherMachineError(
            f"{path}: built by {header.backend.title} {header.version}, but {installed} is "
            "installed; build it again, or install that version"
        )


def deserialize(backend: Backend, trt: ModuleType, path: Path) -> tuple[Any, Any]:
    """The runtime and the engine in a plan; a driver must be there, in CI a stand-in is.

    Raises:
        InputError: an engine of another version, for another GPU, or damaged.
        MissingDependencyError: the driver is too old, or the GPU's memory too small.
    """
    log = _make_log(trt)
    runtime = trt.Runtime(log)
    # Version-compatible engines carry code of their own; the manifest's hash says whose it is.
    runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise _refused(backend, path, log.errors)
    return runtime, engine


def _make_log(trt: ModuleType) -> Any:
    base: Any = trt.ILogger

    class Log(base):  # type: ignore[misc]  # the base is known when TensorRT is loaded
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Log()


def _refused(backend: Backend, path: Path, errors: list[str]) -> Exception:
    """Why an engine could not be loaded, in the user's terms."""
    text, title = "\n".join(errors), backend.title
    rules: tuple[tuple[str, Callable[[str], Exception], str], ...] = (
        ("driver version is insufficient", MissingDependencyError, "no driver, or one too old"),
        ("out of memory", MissingDependencyError, "the GPU's memory is too small"),
        ("incompatible device", OtherMachineError, "built for another GPU; build it again here"),
        ("ersion tag", OtherMachineError, f"built by another version of {title}; build it again"),
    )
    for sign, kind, reason in rules:
        if sign in text:
            return kind(f"{path}: {reason}")
    first = errors[0].splitlines()[0][:300] if errors else "no reason given"
    return InputError(f"{path}: {title} cannot load it ({first}); build it again")
