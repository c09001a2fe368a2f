"""The parity check of a build, of a finished artifact, and of any two models."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from exporter.artifact.manifest import read_manifest
from exporter.environment import environment
from exporter.errors import InputError
from exporter.inputs.cases import DataSet
from exporter.inputs.data_sets import DataOptions, make_data_sets
from exporter.inputs.encode import TextEncoder
from exporter.metrics.decisions import decision_of
from exporter.model.model_shape import ModelShape
from exporter.parity.comparison import (
    Comparison,
    Observer,
    Reference,
    ReferenceModel,
    compare,
    plan_batches,
    run_reference,
)
from exporter.parity.limit_options import chosen_limits
from exporter.parity.limits import Limits, Metric, widest
from exporter.parity.result import Known, ParityResult
from exporter.parity.runners import Layers
from exporter.parity.side import Side
from exporter.parity.sides import artifact_side, common_shape, source_side
from exporter.parity.store import LIMIT_BYTES, ReferenceStore
from exporter.parity.verdict import judge
from exporter.progress import Progress, silent
from exporter.runtime.load import text_encoder


@dataclass(frozen=True)
class LimitOptions:
    """Limits to hold a candidate to.

    Attributes:
        precision: whose built-in limits are the start; those of the sides by default.
        file: TOML with limits in the place of built-in ones.
        options: `metric=bound` each.
    """

    precision: str | None = None
    file: Path | None = None
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class CompareOptions:
    """How to compare.

    Attributes:
        data: what on.
        limits: what to hold the candidate to.
        layers: compare the hidden state of every layer as well.
        cache: folder that keeps what the reference gives; None keeps nothing.
        cache_bytes: size of that folder after a run.
        observe: given what both sides gave for each batch.
    """

    data: DataOptions = field(default_factory=DataOptions)
    limits: LimitOptions = field(default_factory=LimitOptions)
    layers: bool = True
    cache: Path | None = None
    cache_bytes: int = LIMIT_BYTES
    observe: Observer | None = None


def verify_artifact(
    folder: Path,
    checkpoint: Path | None = None,
    options: CompareOptions | None = None,
    progress: Progress = silent,
) -> ParityResult:
    """Compare a finished artifact with the checkpoint that it was built from.

    A file of the artifact that has changed or is missing fails the check by name; the models are
    compared all the same, where the artifact still loads.

    Args:
        folder: the artifact.
        checkpoint: where the source checkpoint is now; where the manifest says by default.
        options: how to compare.
        progress: told what is going on.

    Raises:
        InputError: no artifact there, the checkpoint is gone or is another one, unusable options.
        MissingDependencyError: PyTorch or ONNX Runtime is not installed.
    """
    progress("checking the files")
    candidate = artifact_side(folder)
    return compare_sides(
        source_side(read_manifest(folder), checkpoint), candidate, options, progress
    )


def compare_sides(
    reference: Side,
    candidate: Side,
    options: CompareOptions | None = None,
    progress: Progress = silent,
) -> ParityResult:
    """Compare any two models.

    Args:
        reference: what is right.
        candidate: what is judged.
        options: how to compare.
        progress: told what is going on.

    Raises:
        InputError: they are different models, or an option is unusable.
        MissingDependencyError: what runs one of them is not installed.
    """
    options = options or CompareOptions()
    shape = common_shape(reference, candidate)
    chosen = options.limits
    precision = chosen.precision or widest([reference.info.precision, candidate.info.precision])
    limits = chosen_limits(precision, chosen.file, chosen.options)
    if candidate.saved and not options.data.files:
        raise InputError(
            f"{candidate.info.name}: saved outputs; give the inputs that they belong to with --data"
        )
    if reference.saved:
        raise InputError(f"{reference.info.name}: saved outputs are a candidate, not a reference")
    data = replace(options.data, lengths=()) if candidate.saved else options.data
    longest = _longest(shape, reference, candidate)
    sets = make_data_sets(shape, _encoder(shape, reference, candidate, longest), data, longest)
    sets, notes = _taken(sets, candidate)
    known = Known((*reference.problems, *candidate.problems), notes)
    with ExitStack() as stack:
        cache = options.cache or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store = ReferenceStore(cache, options.cache_bytes)
        try:
            return check_sides(
                reference,
                candidate,
                shape,
                sets,
                limits,
                progress,
                store=store,
                known=known,
                layers=options.layers,
                observe=options.observe,
            )
        except InputError as error:
            if not candidate.problems:
                raise
            # A changed file that no longer loads is a failed check, not a wrong use of the command.
            return _unusable(reference, candidate, shape, limits, (*known.problems, str(error)))
        finally:
            store.trim()


def check_sides(
    reference: Side,
    candidate: Side,
    shape: ModelShape,
    data_sets: Sequence[DataSet],
    limits: Limits,
    progress: Progress,
    *,
    store: ReferenceStore,
    known: Known | None = None,
    layers: bool = True,
    observe: Observer | None = None,
) -> ParityResult:
    """Run the models one after the other, each freed before the next is loaded, and judge.

    Args:
        reference: what is right.
        candidate: what is judged, by each of its runtimes. The result is that of the first; what
            fails in another is a problem of it.
        shape: the model.
        data_sets: the inputs.
        limits: what is permitted.
        progress: told what is going on.
        store: keeps what the reference gives until the candidate has run.
        known: failures and remarks that there are already.
        layers: compare the hidden states as well.
        observe: given what both sides gave for each batch.
    """
    known = known or Known()
    batches = plan_batches(shape, data_sets, layers)
    if not batches:
        raise InputError("no inputs to compare: none of them fits both models")
    model = ReferenceModel(
        reference.identity, reference.info.runtime, lambda: reference.opens[0](shape)
    )
    found = run_reference(model, shape, batches, store, progress)
    gc.collect()
    comparisons = []
    for index, make in enumerate(candidate.opens):
        progress("parity: loading the candidate")
        with closing(make(shape)) as runner:
            tie = limits.bound(Metric.MAX_RELATIVE)
            watch = observe if index == 0 else None
            comparisons.append(compare(found, runner, tie, progress, watch))
    verdict = _Verdict(reference, candidate, found, limits, tuple(item.name for item in data_sets))
    problems = list(known.problems)
    for other in comparisons[1:]:
        lines = verdict.of(other, Known()).failures
        problems += [f"{other.name}: {line}" for line in lines]
    return verdict.of(comparisons[0], Known(problems, known.notes))


@dataclass(frozen=True, eq=False)
class _Verdict:
    """Makes the result of a comparison."""

    reference: Side
    candidate: Side
    found: Reference
    limits: Limits
    names: tuple[str, ...]

    def of(self, comparison: Comparison, known: Known) -> ParityResult:
        """The result: every limit applied to every data set."""
        cases = comparison.cases
        sets = tuple(
            judge(name, [case for case in cases if case.data_set == name], self.limits)
            for name in self.names
        )
        wrong = [problem for item in sets for problem in item.problems]
        return ParityResult(
            reference=replace(self.reference.info, runtime=self.found.name),
            candidate=replace(self.candidate.info, runtime=comparison.name),
            shape=self.found.shape,
            decision=decision_of(self.found.shape),
            limits=self.limits,
            data_sets=sets,
            cases=cases,
            layers=comparison.layers,
            errors=comparison.errors,
            problems=(*known.problems, *wrong),
            notes=tuple(known.notes),
            cached=self.found.cached,
            environment=environment(),
            seconds={
                side: sum(case.seconds[side] for case in cases)
                for side in ("reference", "candidate")
            },
        )


def _unusable(
    reference: Side,
    candidate: Side,
    shape: ModelShape,
    limits: Limits,
    problems: Sequence[str],
) -> ParityResult:
    """The result for an artifact that cannot be run."""
    return ParityResult(
        reference=reference.info,
        candidate=replace(candidate.info, runtime="not loaded"),
        shape=shape,
        decision=decision_of(shape),
        limits=limits,
        data_sets=(),
        cases=(),
        layers=Layers(reason="the candidate could not be loaded"),
        errors={},
        problems=tuple(problems),
        notes=(),
        cached=0,
        environment=environment(),
        seconds={"reference": 0.0, "candidate": 0.0},
    )


def _longest(shape: ModelShape, *sides: Side) -> int:
    """The largest length that both sides take."""
    given = [side.longest for side in sides if side.longest is not None]
    if shape.longest is not None:
        given.append(shape.longest)
    return min(given) if given else shape.max_position_embeddings


def _encoder(
    shape: ModelShape, reference: Side, candidate: Side, longest: int
) -> TextEncoder | None:
    """The tokenizer of the reference, or else of the candidate."""
    for side in (reference, candidate):
        if side.folder is not None:
            return text_encoder(side.folder, shape.task, longest)
    return None


def _taken(data_sets: Sequence[DataSet], side: Side) -> tuple[tuple[DataSet, ...], tuple[str, ...]]:
    """The batches whose shape a side takes, and a remark on those left out."""
    if not side.profiles:
        return tuple(data_sets), ()
    kept = []
    left = 0
    for item in data_sets:
        cases = tuple(c for c in item.cases if any(p.takes(c.shape) for p in side.profiles))
        left += len(item.cases) - len(cases)
        if cases:
            kept.append(DataSet(item.name, cases))
    notes = (f"{left} batches left out: no profile of the engine takes their shape",)
    return tuple(kept), notes if left else ()
