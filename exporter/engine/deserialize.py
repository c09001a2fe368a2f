"""From the bytes of a plan to an engine that a GPU can run.

CI has no GPU and runs this against a stand-in.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from exporter.engine.backend import Backend
from exporter.errors import InputError, MissingDependencyError

if TYPE_CHECKING:
    pass


def deserialize(backend: Backend, trt: ModuleType, path: Path) -> tuple[Any, Any]:
    """The runtime and the engine in a plan; a driver must be there.

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
    """A logger that keeps the errors."""
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
    text = "\n".join(errors)
    rules: tuple[tuple[str, Callable[[str], Exception], str], ...] = (
        ("driver version is insufficient", MissingDependencyError, "no driver, or one too old"),
        ("out of memory", MissingDependencyError, "the GPU's memory is too small"),
        ("incompatible device", InputError, "built for another GPU; build it again here"),
        ("ersion tag", InputError, f"built by another version of {backend.title}; build it again"),
    )
    for sign, kind, reason in rules:
        if sign in text:
            return kind(f"{path}: {reason}")
    first = errors[0].splitlines()[0][:300] if errors else "no reason given"
    return InputError(f"{path}: {backend.title} cannot load it ({first}); build it again")
