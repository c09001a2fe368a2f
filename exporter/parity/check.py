"""The parity check of a build, of a finished artifact, and of any two models."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from exporter.errors import (
    DebExportError,
    InputError,
    MissingDependencyError,
    OtherMachineError,
)
from exporter.inputs.cases import DataSet, ParityCase
from exporter.inputs.data_sets import DataOptions, make_data_sets
from exporter.model.model_shape import ModelShape
from exporter.parity.comparison import (
    Comparison,
    Observer,
    Reference,
    compare,
    plan_batches,
    run_reference,
)
from exporter.parity.limits import Limits, chosen_limits, limits_for, widest
from exporter.parity.result import DataSetResult, EngineResult, ParityResult
from exporter.parity.runners import Layers, TorchRunner
from exporter.parity.side import Side, common_shape
from exporter.parity.stagewise import StageFigures, judge_graph
from exporter.parity.store import ReferenceStore
from exporter.parity.verdict import FACTOR, Noise, judge_sets, noise_of, relative_to_noise
from exporter.progress import Progress, silent
from exporter.runtime.load import text_encoder


@dataclass(frozen=True)
class CompareOptions:
    """How to compare.

    Attributes:
        data: what on.
        precision: whose built-in limits the candidate is held to; those of the sides by default.
        limits_file: TOML with limits in the place of built-in ones.
        limits: `metric=bound` each, in the place of both.
        layers: compare the hidden state of every layer as well.
        cache: folder that keeps what the reference gives; None keeps nothing.
        observe: given what both sides gave for each batch.
    """

    data: DataOptions = field(default_factory=DataOptions)
    precision: str | None = None
    limits_file: Path | None = None
    limits: tuple[str, ...] = ()
    layers: bool = True
    cache: Path | None = None
    observe: Observer | None = None


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
    precision = options.precision or widest([reference.info.precision, candidate.info.precision])
    limits = chosen_limits(precision, options.limits_file, options.limits)
    sets, notes = _inputs(reference, candidate, shape, options.data)
    problems = (*reference.problems, *candidate.problems)
    with ExitStack() as stack:
        cache = options.cache or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store = ReferenceStore(cache)
        stack.callback(store.trim)
        try:
            return check_sides(
                reference,
                candidate,
                shape,
                sets,
                limits,
                progress,
                store=store,
                problems=problems,
                notes=notes,
                layers=options.layers,
                observe=options.observe,
            )
        except InputError as error:
            if not candidate.problems:
                raise
            # A changed file that no longer loads is a failed check, not a wrong use of the command.
            return _not_loaded(reference, candidate, shape, limits, (*problems, str(error)))


def check_sides(
    reference: Side,
    candidate: Side,
    shape: ModelShape,
    data_sets: Sequence[DataSet],
    limits: Limits,
    progress: Progress,
    *,
    store: ReferenceStore,
    problems: Sequence[str] = (),
    notes: Sequence[str] = (),
    layers: bool = True,
    observe: Observer | None = None,
) -> ParityResult:
    """Run the models one after the other, each freed before the next is loaded, and judge.

    Args:
        reference: what is right.
        candidate: what is judged, by each of its runtimes. The result is that of the first; what
            fails in another is a problem of it. Its export in fp32 is judged before it, and its
            engines after it, on the same outputs of the reference.
        shape: the model.
        data_sets: the inputs.
        limits: what is permitted.
        progress: told what is going on.
        store: keeps what the reference gives until the candidate has run.
        problems: failures that there are already.
        notes: remarks without a part in the verdict.
        layers: compare the hidden states as well.
        observe: given what both sides gave for each batch.
    """
    batches = plan_batches(shape, data_sets, layers)
    if not batches:
        raise InputError("no inputs to compare: none of them fits both models")
    found = run_reference(reference, shape, batches, store, progress)
    gc.collect()
    export = None
    if candidate.export is not None:
        exact = limits_for(candidate.export.info.precision)
        export = _judge_side(reference, candidate.export, exact, found, progress)
    foreign = candidate.graph is None and candidate.info.kind == "onnx" and reference.checkpoint
    wanted = relative_to_noise(limits) if foreign else limits
    result = _judge_side(reference, candidate, wanted, found, progress, observe)
    ran = [b.case for b, case in zip(batches, result.cases, strict=True) if not case.problem]
    stages = _stages(reference, candidate, shape, ran, progress)
    return replace(
        result,
        problems=(*problems, *result.problems),
        notes=(*result.notes, *notes),
        stages=stages,
        export=export,
        engines=tuple(
            _judge_engine(reference, candidate, engine, limits, found, progress)
            for engine in candidate.engines
        ),
    )


def _judge_engine(
    reference: Side,
    graph: Side,
    engine: Side,
    limits: Limits,
    found: Reference,
    progress: Progress,
) -> EngineResult:
    """An engine on the batches that its profiles take, unless it cannot run on this machine.

    Its limits are the graph's, unless it computes in another precision.
    """
    file = engine.info.name
    if engine.info.precision != graph.info.precision:
        limits = limits_for(engine.info.precision)
    taken = [
        (batch, key)
        for batch, key in zip(found.batches, found.keys, strict=True)
        if any(profile.takes(batch.case.shape) for profile in engine.profiles)
    ]
    if not taken:
        return EngineResult(file, None, "none of its profiles takes a batch of the check")
    part = replace(
        found,
        batches=tuple(batch for batch, _ in taken),
        keys=tuple(key for _, key in taken),
    )
    try:
        result = _judge_side(reference, engine, limits, part, progress)
    except DebExportError as error:
        reason = str(error).removeprefix(f"{(engine.folder or Path()) / file}: ")
        if isinstance(error, (MissingDependencyError, OtherMachineError)):
            return EngineResult(file, None, reason)
        result = _not_loaded(reference, engine, found.shape, limits, (reason,))
    notes = _left_out(len(found.batches) - len(taken))
    return EngineResult(file, replace(result, notes=(*result.notes, *notes)))


def _judge_side(
    reference: Side,
    candidate: Side,
    limits: Limits,
    found: Reference,
    progress: Progress,
    observe: Observer | None = None,
) -> ParityResult:
    """A candidate in each of its runtimes.

    Where it leaves the limits, and the reference is a checkpoint, it is judged again relative to
    the noise of its precision, which takes another run of the reference.
    """
    results: list[ParityResult] = []
    noise: Noise | None = None
    for make in candidate.opens:
        progress(f"parity: loading the candidate, {candidate.info.kind}")
        with closing(make(found.shape)) as runner:
            comparison = compare(found, runner, progress, None if results else observe)
        judged = judge_sets(comparison.cases, limits)
        wide = reference.checkpoint and not all(c.passed for part in judged for c in part.checks)
        if wide:
            noise = noise or _noise(reference, found, limits.precision, progress)
            judged = judge_sets(comparison.cases, limits, noise)
        results.append(_result(reference, candidate, limits, found, comparison, judged, wide))
    first, *others = results
    other = [f"{item.candidate.runtime}: {line}" for item in others for line in item.failures]
    return replace(first, problems=(*other, *first.problems))


def _noise(reference: Side, found: Reference, precision: str, progress: Progress) -> Noise:
    """The figures of a checkpoint with everything rounded, beside those that it `found`."""
    from exporter.precision.rounded_model import round_model

    progress(f"parity: loading the reference, to round it as {precision}")
    with closing(reference.opens[0](found.shape)) as runner:
        assert isinstance(runner, TorchRunner)
        round_model(runner.model, precision)
        return noise_of(compare(found, runner, progress).cases)


def _stages(
    reference: Side,
    candidate: Side,
    shape: ModelShape,
    cases: Sequence[ParityCase],
    progress: Progress,
) -> tuple[StageFigures, ...]:
    """Each stage of a graph of ours against its plan, where the reference is its checkpoint."""
    if candidate.graph is None or not reference.checkpoint or not cases:
        return ()
    from exporter.deberta.checkpoint import open_checkpoint

    path, plan = candidate.graph
    checkpoint = open_checkpoint(Path(reference.info.name), shape.task, base=reference.base)
    return judge_graph(checkpoint, path, plan, cases, progress)


def _not_loaded(
    reference: Side,
    candidate: Side,
    shape: ModelShape,
    limits: Limits,
    problems: tuple[str, ...],
) -> ParityResult:
    return ParityResult(
        reference=reference.info,
        candidate=replace(candidate.info, runtime="not loaded"),
        shape=shape,
        limits=limits,
        layers=Layers(reason="the candidate could not be loaded"),
        problems=problems,
    )


def _result(
    reference: Side,
    candidate: Side,
    limits: Limits,
    found: Reference,
    comparison: Comparison,
    judged: tuple[DataSetResult, ...],
    noise: bool,
) -> ParityResult:
    note = f"limits are at least {FACTOR:g} times what rounding to {limits.precision} alone does"
    return ParityResult(
        reference=replace(reference.info, runtime=found.name),
        candidate=replace(candidate.info, runtime=comparison.name),
        shape=found.shape,
        limits=limits,
        layers=comparison.layers,
        data_sets=judged,
        cases=comparison.cases,
        errors=comparison.errors,
        problems=tuple(problem for item in judged for problem in item.problems),
        cached=found.cached,
        noise=noise,
        notes=(note,) if noise else (),
    )


def _inputs(
    reference: Side, candidate: Side, shape: ModelShape, data: DataOptions
) -> tuple[tuple[DataSet, ...], tuple[str, ...]]:
    """The inputs that both sides take, and a remark on those left out."""
    if candidate.saved and not data.files:
        raise InputError(
            f"{candidate.info.name}: saved outputs; give the inputs that they belong to with --data"
        )
    if reference.saved:
        raise InputError(f"{reference.info.name}: saved outputs are a candidate, not a reference")
    if candidate.saved:
        data = replace(data, lengths=())
    given = [side.longest for side in (reference, candidate)] + [shape.longest]
    known = [length for length in given if length is not None]
    longest = min(known, default=None)
    folder = reference.folder or candidate.folder
    cut = longest or shape.usual_longest
    encoder = None if folder is None else text_encoder(folder, shape.task, cut, shape.gliner)
    sets = make_data_sets(shape, encoder, data, longest)
    profiles = candidate.profiles
    if not profiles:
        return tuple(sets), ()
    taken = [
        DataSet(item.name, tuple(c for c in item.cases if any(p.takes(c.shape) for p in profiles)))
        for item in sets
    ]
    left = sum(len(item.cases) for item in sets) - sum(len(item.cases) for item in taken)
    return tuple(item for item in taken if item.cases), _left_out(left)


def _left_out(count: int) -> tuple[str, ...]:
    note = f"{count} batches left out: no profile of the engine takes their shape"
    return (note,) if count else ()
