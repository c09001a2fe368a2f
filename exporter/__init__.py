"""deb-export: DeBERTa-v2/v3 from a training checkpoint to verified production inference.

`build(BuildConfig(...))` writes an artifact folder and returns its `Manifest`; `load(folder)` gives
a `Session`. Each is imported when it is first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.artifact.manifest import Manifest
    from exporter.model.profile import Range
    from exporter.pipeline.build_artifact import build
    from exporter.pipeline.config import BuildConfig
    from exporter.runtime.load import load
    from exporter.runtime.runtime_options import RuntimeOptions
    from exporter.runtime.session import Session

_HOMES = {
    "BuildConfig": "exporter.pipeline.config",
    "Manifest": "exporter.artifact.manifest",
    "Range": "exporter.pipeline.config",
    "RuntimeOptions": "exporter.runtime.runtime_options",
    "Session": "exporter.runtime.session",
    "build": "exporter.pipeline.build_artifact",
    "load": "exporter.runtime.load",
}

__all__ = ["BuildConfig", "Manifest", "Range", "RuntimeOptions", "Session", "build", "load"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
