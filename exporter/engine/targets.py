"""The engines of a build: what can be built here, and building it.

What was asked for by name and cannot be built is an error. What the default leaves out is recorded
with its reason, and the build goes on: no software, no GPU, too little memory, a graph or an option
that the builder does not take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from exporter.artifact.engine_record import EngineOptions, EngineRecord
from exporter.engine.backend import BACKENDS, Backend
from exporter.engine.build_engine import build_engine
from exporter.errors import DebExportError
from exporter.model.profile import ShapeProfile
from exporter.progress import Progress


@dataclass(frozen=True)
class TargetPlan:
    """What a build is going to make besides the graph.

    Attributes:
        backends: builders of its engines.
        named: whether they were asked for by name.
        skipped: why the default leaves a target out, by its name.
    """

    backends: tuple[Backend, ...]
    named: bool
    skipped: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BuiltTargets:
    """What a build has made.

    Attributes:
        engines: the engines, in the order they were built.
        skipped: why the default left a target out, by its name.
    """

    engines: tuple[EngineRecord, ...]
    skipped: Mapping[str, str]

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of what there is: the graph, always, and the engines."""
        return ("onnx", *(engine.target for engine in self.engines))


def plan_targets(targets: Sequence[str] | None, options: EngineOptions) -> TargetPlan:
    """What can be built here, before any work is done.

    Args:
        targets: what was asked for; None is all that this machine can build.
        options: how engines are built.

    Raises:
        MissingDependencyError: software or hardware of a target that was asked for is missing.
        InputError: an option that its builder does not have.
    """
    if targets is not None:
        named = tuple(BACKENDS[name] for name in dict.fromkeys(targets) if name in BACKENDS)
        for backend in named:
            backend.check(options)
        return TargetPlan(named, named=True)
    found, skipped = [], {}
    for backend in BACKENDS.values():
        try:
            backend.check(options)
        except DebExportError as error:
            skipped[backend.target] = _reason(backend, error)
        else:
            found.append(backend)
    return TargetPlan(tuple(found), named=False, skipped=skipped)


def build_targets(
    plan: TargetPlan,
    options: EngineOptions,
    onnx: Path,
    inputs: Sequence[str],
    profiles: Sequence[ShapeProfile],
    progress: Progress,
) -> BuiltTargets:
    """Build the engines of `plan`, beside the graph.

    Args:
        plan: what to build.
        options: how to build.
        onnx: the graph.
        inputs: names of its inputs.
        profiles: the shapes to build for.
        progress: told what is going on.

    Raises:
        InputError, MissingDependencyError: as `build_engine`, for targets asked for by name.
    """
    engines, skipped = [], dict(plan.skipped)
    for backend in plan.backends:
        path = onnx.with_name(backend.plan_file)
        try:
            made = build_engine(backend, onnx, path, inputs, profiles, options, progress)
        except DebExportError as error:
            if plan.named:
                raise
            path.unlink(missing_ok=True)
            skipped[backend.target] = _reason(backend, error)
        else:
            engines.append(made)
    return BuiltTargets(tuple(engines), skipped)


def skipped_text(skipped: Mapping[str, str]) -> str:
    """The targets that a default left out with their reasons, in one line."""
    return "; ".join(f"{name} ({reason})" for name, reason in skipped.items())


def _reason(backend: Backend, error: DebExportError) -> str:
    text = " ".join(str(error).split())
    return text.removeprefix(f"--target {backend.target}: ")
