"""Versions of the software and facts about the machine, without importing anything heavy."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath

from plugins.onnxruntime_cpu.native_library import NativeLibrary, native_library

PACKAGES = (
    "deb-export numpy onnx onnx-ir onnxscript safetensors sentencepiece tokenizers torch "
    "onnxruntime onnxruntime-gpu openvino tensorrt tensorrt-rtx polygraphy"
).split()
"""Packages that have a part in a build or in running an artifact."""

_GPU_QUERY = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")


@cache
def package_version(name: str) -> str | None:
    """The installed version of a distribution, None when it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def tool_name() -> str:
    """Name and version of this program, as artifacts record it."""
    return f"deb-export {package_version('deb-export') or '(not installed)'}"


def environment() -> dict[str, str]:
    """What an artifact records of where it was built: Python, system, processor, packages."""
    found = {name: package_version(name) for name in PACKAGES}
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processor": processor_name(),
        "processors": str(usable_processors()),
        "attention_kernel": attention_kernel(),
        **{name: number for name, number in found.items() if number is not None},
    }


def attention_kernel() -> str:
    """What computes the attention in sessions of ONNX Runtime on a CPU, by default."""
    found = native_library()
    return f"native, {found.instructions}" if isinstance(found, NativeLibrary) else "body"


def processor_name() -> str:
    """Model name of the processor where the system tells it, else its architecture."""
    found = system_value(Path("/proc/cpuinfo"), "model name")
    return found or platform.processor() or platform.machine()


def usable_processors() -> int:
    """Logical processors that this process may use."""
    known = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1


def memory_gib() -> float | None:
    """Physical memory in GiB, None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, OSError, ValueError):
        return None


def gpus() -> tuple[str, ...]:
    """Name and driver version of each NVIDIA GPU; empty without a driver."""
    if shutil.which(_GPU_QUERY[0]) is None:
        return ()
    try:
        result = subprocess.run(_GPU_QUERY, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    lines = result.stdout.splitlines() if result.returncode == 0 else ()
    return tuple(line.strip() for line in lines if line.strip())


def control_groups(controller: str, root: Path) -> Iterator[Path]:
    """Folders of this process's control groups and of all above them, up to the mount.

    Of version 2, and of version 1 those of `controller`, such as "cpu".
    """
    mount = root / "sys/fs/cgroup"
    for line in (read_text(root / "proc/self/cgroup") or "0::/").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        names = (controllers, controller) if controllers else ()
        base = next((mount / name for name in names if (mount / name).exists()), mount)
        inner = PurePosixPath(path.lstrip("/") or ".")
        # Inside a container, the path may be the host's and not be there: its parents end at the
        # mount, where the container's own limit then is.
        for part in (inner, *inner.parents):
            if ".." not in part.parts:
                yield base / part


def system_value(path: Path, name: str) -> str | None:
    """The first value of `name` in a file such as /proc/meminfo; None where that has none."""
    lines = (read_text(path) or "").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)


def read_text(path: Path) -> str | None:
    """What stands in a file of the system; None where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
