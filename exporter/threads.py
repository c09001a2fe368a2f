"""How many threads compute best on this machine: physical cores, affinity, container limits.

Only Linux tells all of it; elsewhere the choice stays with the runtime.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_ROOT = Path("/")


def default_threads(root: Path = _ROOT) -> int | None:
    """Threads for one model: a physical core each, within the CPU quota of the container.

    Two hardware threads of a core share its multipliers, so a thread on each gains nothing in
    matrix products. A quota is rounded down, to at least 1: the kernel stops all threads of a group
    for the rest of the period once they have used it up.

    Args:
        root: where the system's files are, for tests.

    Returns:
        the number; None where the system tells neither cores nor quota.
    """
    known = [
        number for number in (physical_cores(root), _whole(cpu_quota(root))) if number is not None
    ]
    return min(known) if known else None


def physical_cores(root: Path = _ROOT) -> int | None:
    """Physical cores among the logical processors that this process may use; None if unknown."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    cores = set()
    for processor in os.sched_getaffinity(0):
        siblings = _read(
            root / f"sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list"
        )
        if siblings is None:
            return None
        cores.add(siblings)
    return len(cores)


def cpu_quota(root: Path = _ROOT) -> float | None:
    """Processors that the control groups of this process grant it; None without a limit.

    The smallest limit counts, of the group itself and of those around it, in version 2
    (`cpu.max`: quota and period in microseconds) and version 1 (`cpu.cfs_quota_us`).
    """
    limits = [limit for folder in _groups(root) for limit in _limits(folder)]
    return min(limits, default=None)


def _groups(root: Path) -> Iterator[Path]:
    """Folders of the process's control groups and of all above them, up to the mount."""
    mount = root / "sys/fs/cgroup"
    for line in (_read(root / "proc/self/cgroup") or "0::/").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            base = mount
        elif "cpu" in controllers.split(","):
            names = [name for name in (controllers, "cpu") if (mount / name).exists()]
            base = mount / names[0] if names else mount
        else:
            continue
        inner = PurePosixPath(path.lstrip("/") or ".")
        # Inside a container, the path may be the host's and not be there: its parents end at the
        # mount, where the container's own limit then is.
        for part in (inner, *inner.parents):
            if ".." not in part.parts:
                yield base / part


def _limits(folder: Path) -> Iterator[float]:
    quota, period = None, None
    if (both := _read(folder / "cpu.max")) is not None:
        quota, _, period = both.partition(" ")
    elif (alone := _read(folder / "cpu.cfs_quota_us")) is not None:
        quota, period = alone, _read(folder / "cpu.cfs_period_us")
    try:
        limit = float(quota or "max") / float(period or "nan")
    except (ValueError, ZeroDivisionError):
        return  # "max", or a file of another meaning
    if limit > 0 and math.isfinite(limit):  # -1 is version 1's word for no limit
        yield limit


def _whole(quota: float | None) -> int | None:
    return None if quota is None else max(1, math.floor(quota))


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
