"""How much memory a build takes, before it is started."""

from __future__ import annotations

from pathlib import Path

from exporter.environment import control_groups, read_text, system_value
from exporter.errors import MissingDependencyError

_GIB = 1 << 30
_BASE_BYTES = int(0.4 * _GIB)
_PER_WEIGHT_BYTE = 3.4
"""TensorRT-RTX 1.7 took 2.6 GiB for 0.72 GiB of weights and 20.3 GiB for 5.8 GiB."""
_UNLIMITED = 1 << 60


def expected_bytes(graph_bytes: int) -> int:
    """Memory that a build takes at its peak, for a graph of `graph_bytes` with its weights."""
    return _BASE_BYTES + int(_PER_WEIGHT_BYTE * graph_bytes)


def available_bytes(root: Path = Path("/")) -> int | None:
    """Memory that this process may still take; None where the system does not tell.

    The smallest of what the machine has free and what the limits of its control groups leave.
    """
    free = system_value(root / "proc/meminfo", "MemAvailable")
    limits = [] if free is None else [int(free.split()[0]) * 1024]
    for folder in control_groups("memory", root):
        for limit, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            most, taken = read_text(folder / limit), read_text(folder / used)
            if most and taken and most.isdecimal() and int(most) < _UNLIMITED:
                # Files that are cached count as taken, though they would make room: half is a
                # guess that errs on the side of building.
                limits.append(int(most) - int(taken) // 2)
    return min(limits, default=None)


def graph_bytes(path: Path) -> int:
    """Size of an ONNX file with the external data beside it."""
    data = path.with_name(path.name + ".data")
    return path.stat().st_size + (data.stat().st_size if data.is_file() else 0)


def check_memory(title: str, size: int, available: int | None) -> None:
    """Refuse a build by `title` that would not fit, of a graph of `size` bytes with its weights.

    Raises:
        MissingDependencyError: more than the `available` bytes are needed; None checks nothing.
    """
    needed = expected_bytes(size)
    if available is not None and needed > available:
        raise MissingDependencyError(
            f"{title}: the build takes about {needed / _GIB:.1f} GiB of memory and "
            f"{available / _GIB:.1f} GiB are free; use a machine with more, or --precision fp16"
        )
