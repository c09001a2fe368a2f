"""The engines of a build: what can be built here, and building it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.config import BuildConfig, Range
from exporter.engine.backend import BACKENDS, Backend
from exporter.engine.build import EngineRecord, build_engine
from exporter.engine.profiles import ShapeProfile, profiles_for

if TYPE_CHECKING:
    from exporter.runtime.feeds import ModelShape


def check_targets(config: BuildConfig) -> None:
    """Refuse targets that cannot be built here, before any work is done.

    Raises:
        MissingDependencyError: a target's software or hardware is missing.
        InputError: an option that a target's builder does not have.
    """
    for backend in _backends(config.targets):
        backend.check(config.engine)


def engine_profiles(config: BuildConfig, shape: ModelShape, seq: Range) -> tuple[ShapeProfile, ...]:
    """The profiles of the engines that `config` asks for; none where it asks for none.

    Args:
        config: what to build.
        shape: the model.
        seq: lengths in tokens that the artifact is meant for.

    Raises:
        InputError: a profile that does not suit the model or the artifact.
    """
    if not _backends(config.targets):
        return ()
    return profiles_for(config.profiles, config.batch, seq, shape)


def build_targets(
    config: BuildConfig,
    onnx: Path,
    inputs: Sequence[str],
    profiles: Sequence[ShapeProfile],
    progress: Callable[[str], None],
) -> tuple[EngineRecord, ...]:
    """Build the engines that `config` asks for, beside the graph.

    Args:
        config: what to build.
        onnx: the graph.
        inputs: names of its inputs.
        profiles: the shapes to build for.
        progress: told what is going on.

    Raises:
        InputError, MissingDependencyError: as `build_engine`.
    """
    return tuple(
        build_engine(
            backend,
            onnx,
            onnx.with_name(backend.plan_file),
            inputs,
            profiles,
            config.engine,
            progress,
        )
        for backend in _backends(config.targets)
    )


def _backends(targets: Sequence[str]) -> list[Backend]:
    return [BACKENDS[target] for target in dict.fromkeys(targets) if target in BACKENDS]
