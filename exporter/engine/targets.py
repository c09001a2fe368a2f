"""The engines of a build: what can be built here, and building it.

What was asked for by name and cannot be built is an error. What the default leaves out is recorded
with its reason, and the build goes on; docs/tensorrt.md lists the reasons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from exporter.artifact.engine_record import EngineOptions, EngineRecord
from exporter.engine.backend import BACKENDS, Backend
from exporter.engine.build_engine import build_engine
from exporter.errors import DebExportError, InputError
from exporter.model.profile import ShapeProfile
from exporter.progress import Progress


@dataclass(frozen=True)
class TargetPlan:
    """The builders of a build, whether they were named, and why others are left out, by target."""

    backends: tuple[Backend, ...]
    named: bool
    skipped: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BuiltTargets:
    """The engines in the order they were built; why the default left a target out, by its name."""

    engines: tuple[EngineRecord, ...]
    skipped: Mapping[str, str]

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of what there is: the graph, always, and the engines."""
        return ("onnx", *(engine.target for engine in self.engines))


def plan_targets(targets: Sequence[str] | None, options: EngineOptions) -> TargetPlan:
    """What can be built here, before any work is done; no `targets` is all that can be.

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
            found.append(backend)
        except DebExportError as error:
            skipped[backend.target] = _reason(backend, error)
    return TargetPlan(tuple(found), named=False, skipped=skipped)


def without_engines(plan: TargetPlan, reason: str) -> TargetPlan:
    """The plan for a graph that no engine can be built of.

    Raises:
        InputError: an engine was asked for by name.
    """
    if plan.named and plan.backends:
        raise InputError(f"--target {plan.backends[0].target}: {reason}; leave it out")
    left = {backend.target: reason for backend in plan.backends}
    return TargetPlan((), plan.named, {**plan.skipped, **left})


def build_targets(
    plan: TargetPlan,
    options: EngineOptions,
    onnx: Path,
    inputs: Sequence[str],
    profiles: Sequence[ShapeProfile],
    progress: Progress,
) -> BuiltTargets:
    """Build the engines of `plan`, beside the graph `onnx` with these `inputs`.

    Raises:
        InputError, MissingDependencyError: as `build_engine`, for targets asked for by name.
    """
    engines, skipped = [], dict(plan.skipped)
    for backend in plan.backends:
        path = onnx.with_name(backend.plan_file)
        try:
            made = build_engine(backend, onnx, path, inputs, profiles, options, progress)
            engines.append(made)
        except DebExportError as error:
            if plan.named:
                raise
            path.unlink(missing_ok=True)
            skipped[backend.target] = _reason(backend, error)
    return BuiltTargets(tuple(engines), skipped)


def skipped_text(skipped: Mapping[str, str]) -> str:
    """The targets that a default left out with their reasons, in one line."""
    return "; ".join(f"{name} ({reason})" for name, reason in skipped.items())


def _reason(backend: Backend, error: DebExportError) -> str:
    text = " ".join(str(error).split())
    return text.removeprefix(f"--target {backend.target}: ")
