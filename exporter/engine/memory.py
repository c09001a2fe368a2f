"""How much memory a build takes, before it is started."""

from __future__ import annotations

from pathlib import Path

from exporter.errors import MissingDependencyError

_GIB = 1 << 30
_BASE_BYTES = int(0.4 * _GIB)
_PER_WEIGHT_BYTE = 3.4
"""TensorRT-RTX 1.7 took 2.6 GiB for 0.72 GiB of weights and 20.3 GiB for 5.8 GiB."""

_CGROUP = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60


def expected_bytes(graph_bytes: int) -> int:
    """Memory that a build takes at its peak, for a graph of `graph_bytes` with its weights."""
    return _BASE_BYTES + int(_PER_WEIGHT_BYTE * graph_bytes)


def available_bytes(proc: Path = Path("/proc/meminfo"), cgroup: Path = _CGROUP) -> int | None:
    """Memory that this process may still take; None where the system does not tell.

    The smaller of what the machine has free and what the container's limit leaves.
    """
    limits = [size for size in (_machine(proc), _container(cgroup)) if size is not None]
    return min(limits, default=None)


def graph_bytes(path: Path) -> int:
    """Size of an ONNX file with the external data beside it."""
    data = path.with_name(path.name + ".data")
    return path.stat().st_size + (data.stat().st_size if data.is_file() else 0)


def check_memory(title: str, size: int, available: int | None) -> None:
    """Refuse a build that would not fit.

    Args:
        title: the builder.
        size: bytes of the graph with its weights.
        available: bytes that may be taken; None checks nothing.

    Raises:
        MissingDependencyError: the memory is too small.
    """
    needed = expected_bytes(size)
    if available is None or needed <= available:
        return
    raise MissingDependencyError(
        f"{title}: the build takes about {needed / _GIB:.1f} GiB of memory and "
        f"{available / _GIB:.1f} GiB are free; use a machine with more, or --precision fp16"
    )


def _machine(proc: Path) -> int | None:
    try:
        lines = proc.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(values[0]) * 1024 if values else None


def _container(cgroup: Path) -> int | None:
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            most = (cgroup / limit).read_text(encoding="ascii").strip()
            taken = (cgroup / used).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if most.isdecimal() and int(most) < _UNLIMITED:
            # Files that are cached count as taken, though they would make room: half is a guess
            # that errs on the side of building.
            return int(most) - int(taken) // 2
    return None
