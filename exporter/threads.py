"""How many threads compute best on this machine: physical cores, affinity, container limits.

Only Linux tells all of it; elsewhere the choice stays with the runtime.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

from exporter.environment import control_groups, read_text

_ROOT = Path("/")


def default_threads(root: Path = _ROOT) -> int | None:
    """Threads for one model: a physical core each, within the CPU quota of the container.

    None where the system, whose files are under `root`, tells neither cores nor quota.

    Two hardware threads of a core share its multipliers, so a thread on each gains nothing in
    matrix products. A quota is rounded down, to at least 1: the kernel stops all threads of a group
    for the rest of the period once they have used it up.
    """
    cores, quota = physical_cores(root), cpu_quota(root)
    whole = None if quota is None else max(1, math.floor(quota))
    return min((number for number in (cores, whole) if number is not None), default=None)


def openmp_threads(variables: Mapping[str, str]) -> int | None:
    """What OMP_NUM_THREADS says, of nested levels the first; None where it is no number.

    Other programs read it as well, so what it must not be is theirs to say.
    """
    first = variables.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return (int(first) or None) if first.isascii() and first.isdigit() else None


def physical_cores(root: Path = _ROOT) -> int | None:
    """Physical cores among the logical processors that this process may use; None if unknown."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    processors = root / "sys/devices/system/cpu"
    siblings = {
        read_text(processors / f"cpu{number}/topology/thread_siblings_list")
        for number in os.sched_getaffinity(0)
    }
    return None if None in siblings else len(siblings)


def cpu_quota(root: Path = _ROOT) -> float | None:
    """Processors that the control groups of this process grant it; None without a limit.

    The smallest limit counts, of the group itself and of those around it, in version 2
    (`cpu.max`: quota and period in microseconds) and version 1 (`cpu.cfs_quota_us`).
    """
    return min(filter(None, map(_quota, control_groups("cpu", root))), default=None)


def _quota(folder: Path) -> float | None:
    quota, _, period = (read_text(folder / "cpu.max") or "").partition(" ")
    if not quota:
        quota = read_text(folder / "cpu.cfs_quota_us") or ""
        period = read_text(folder / "cpu.cfs_period_us") or ""
    try:
        limit = float(quota) / float(period)
    except (ValueError, ZeroDivisionError):
        return None  # "max", no file, or one of another meaning
    return limit if limit > 0 and math.isfinite(limit) else None  # version 1: -1 for no limit
