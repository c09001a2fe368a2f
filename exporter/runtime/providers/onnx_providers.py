"""Execution providers of ONNX Runtime: which one a name means, and its options."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from exporter.errors import MissingDependencyError
from exporter.model.profile import ShapeProfile
from exporter.runtime.runtime_options import make_folder

Provider: TypeAlias = "str | tuple[str, dict[str, str]]"

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

NAMES = {"cpu": CPU, "cuda": CUDA, "ort-tensorrt": TENSORRT}
"""ONNX Runtime's name of each of our providers."""


def make_providers(
    name: str, inputs: Sequence[str], profile: ShapeProfile, cache: Path
) -> list[Provider]:
    """The providers to give to ONNX Runtime, the one asked for first, then what it falls back to.

    The names of the graph's inputs, which all have the same shape, and the profile are what
    TensorRT's engines are built for; they are kept in `cache`, a folder that is made.

    Raises:
        InputError: the cache cannot be written.
    """
    if name == "cpu":
        return [CPU]
    # Products in full fp32: the graph says where less is meant.
    cuda = (CUDA, {"device_id": "0", "use_tf32": "0"})
    if name == "cuda":
        return [cuda, CPU]
    make_folder(cache)
    sizes = ("x".join(map(str, shape)) for shape in profile.shapes)
    low, usual, high = (",".join(f"{name}:{size}" for name in inputs) for size in sizes)
    options = {
        "device_id": "0",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
        "trt_profile_min_shapes": low,
        "trt_profile_opt_shapes": usual,
        "trt_profile_max_shapes": high,
    }
    return [(TENSORRT, options), cuda, CPU]


def cache_folder(key: str) -> Path:
    """Where the engines for a graph are kept: below $XDG_CACHE_HOME, named by the graph's hash."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "deb-export" / "ort-tensorrt" / key[:16]


def check_available(name: str, available: Sequence[str]) -> None:
    """Raise a MissingDependencyError for a provider that ONNX Runtime was built without."""
    if NAMES[name] not in available:
        raise MissingDependencyError(
            f"provider {name!r}: this ONNX Runtime has no {NAMES[name]}; "
            'pip uninstall onnxruntime and pip install "deb-export[gpu]"'
        )


def check_active(name: str, session: Any) -> None:
    """Raise a MissingDependencyError where ONNX Runtime fell back to another provider."""
    if NAMES[name] not in session.get_providers():
        raise MissingDependencyError(
            f"provider {name!r}: ONNX Runtime cannot start {NAMES[name]} and would run on "
            f"{session.get_providers()[0]}; are the driver, CUDA and cuDNN (and TensorRT) "
            "installed, in the versions that it was built for?"
        )
