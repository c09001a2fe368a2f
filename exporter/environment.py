"""Versions of the software and facts about the machine, without importing anything heavy."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "deb-export",
    "numpy",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "safetensors",
    "sentencepiece",
    "tokenizers",
    "torch",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
    "polygraphy",
)
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
        **{name: number for name, number in found.items() if number is not None},
    }


def processor_name() -> str:
    """Model name of the processor where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def usable_processors() -> int:
    """Logical processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
    if result.returncode != 0:
        return ()
    return tuple(line.strip() for line in result.stdout.splitlines() if line.strip())
