"""What the first bytes of a .plan file tell: builder, version, size. No runtime is needed.

The layout is the one that NVIDIA's `trtexec --getPlanVersionOnly` reads: a tag, the version of the
format at byte 4, the size of the file at 16, the builder's version in four bytes at 24.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from exporter.engine.backend import BACKENDS, Backend
from exporter.errors import InputError

_HEADER = struct.Struct("<4sI8xQ4B")


@dataclass(frozen=True)
class PlanHeader:
    """The header of a plan.

    Attributes:
        target: what built it, "tensorrt" or "tensorrt-rtx".
        version: the builder's version, such as `11.1.0.106`, its last part modulo 256.
        bytes: size that the file must have.
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
    """Refuse an engine of another version than the installed runtime.

    Args:
        path: the plan, for the message.
        header: its header.
        installed: version of the runtime.

    Raises:
        InputError: the versions differ in what TensorRT requires to be equal: all but the build.
    """
    if header.version.split(".")[:3] == installed.split(".")[:3]:
        return
    title = header.backend.title
    raise InputError(
        f"{path}: built by {title} {header.version}, but {installed} is installed; "
        "build it again, or install that version"
    )
