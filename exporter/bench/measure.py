"""Timing in turns: each round runs every contender once, each time in another order."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from exporter.artifact.manifest import read_manifest
from exporter.bench.check import Agreement, Outputs, agreement, run_all
from exporter.bench.config import BenchConfig, Contender
from exporter.bench.inputs import BenchInputs, Workload, make_inputs
from exporter.progress import Progress, silent
from exporter.runtime.load import OPENVINO, artifact_shape, open_session, suited, text_encoder
from exporter.runtime.session import Session

_ARITHMETIC = {"bf16": "bf16", "f16": "fp16"}
"""OpenVINO's name of an arithmetic -> the precision whose limits count for it."""


@dataclass(frozen=True)
class Entry:
    """A contender as it ran: its name, whether its outputs are right, what to know of it."""

    name: str
    agreement: Agreement
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Timing:
    """Times of one contender on one workload.

    Attributes:
        workload: name of the workload.
        sentences: examples in one run.
        tokens: valid tokens in one run.
        contender: name of the contender.
        seconds: one for each round.
        ratio: median over the rounds of its time over that of the first contender.
    """

    workload: str
    sentences: int
    tokens: int
    contender: str
    seconds: tuple[float, ...]
    ratio: float

    @property
    def latency_ms(self) -> float:
        """Median time of a run."""
        return 1e3 * statistics.median(self.seconds)

    @property
    def spread_ms(self) -> tuple[float, float]:
        """20th and 80th percentile of the time of a run."""
        low, high = np.percentile(self.seconds, (20, 80))
        return 1e3 * float(low), 1e3 * float(high)

    @property
    def tokens_per_second(self) -> float:
        """Valid tokens in the median time."""
        return self.tokens / statistics.median(self.seconds)

    @property
    def sentences_per_second(self) -> float:
        """Examples in the median time."""
        return self.sentences / statistics.median(self.seconds)


@dataclass(frozen=True)
class BenchResult:
    """All times, and which contenders are wrong; true when none is."""

    config: BenchConfig
    precision: str
    threads: int | None
    entries: tuple[Entry, ...]
    timings: tuple[Timing, ...]

    def __bool__(self) -> bool:
        return all(entry.agreement for entry in self.entries)


def bench(config: BenchConfig, progress: Progress = silent) -> BenchResult:
    """Compare all contenders with the first one, then time those that are right.

    Args:
        config: what to measure.
        progress: told what is going on.

    Raises:
        InputError: the artifact, a graph, a shape or the texts cannot be used.
        MissingDependencyError: a provider's software or hardware is missing.
    """
    manifest = read_manifest(config.artifact)
    shape = artifact_shape(config.artifact, manifest)
    encoder = text_encoder(config.artifact, shape.task, manifest.seq.max)
    inputs = make_inputs(config, manifest, shape, encoder)
    with ExitStack() as stack:
        sessions: dict[str, Session] = {}
        limits: dict[str, tuple[str, ...]] = {}
        for contender in config.contenders:
            what = "the artifact" if contender.graph is None else contender.graph.name
            progress(f"loading {what} on {contender.provider}")
            options = suited(config.options, contender.provider)
            session = stack.enter_context(
                open_session(
                    config.artifact, manifest, contender.provider, options, graph=contender.graph
                )
            )
            name = _name(contender, session, config)
            sessions[name] = session
            limits[name] = _limits(contender, session, config.limits, manifest.precision)
        entries = _compare(inputs, sessions, limits, progress)
        right = {entry.name: sessions[entry.name] for entry in entries if entry.agreement}
        timings = [
            timing
            for workload in inputs.workloads
            for timing in time_in_turn(workload, right, config.rounds, config.warmup, progress)
        ]
    threads = config.options.resolved().threads
    return BenchResult(config, manifest.precision, threads, entries, tuple(timings))


def _name(contender: Contender, session: Session, config: BenchConfig) -> str:
    """What a contender is called in the results; graphs of the same name keep their path."""
    if contender.graph is None:
        return f"artifact, {session.name}"
    same = [graph for graph in config.against if graph.name == contender.graph.name]
    graph: Path | str = contender.graph if len(same) > 1 else contender.graph.name
    return f"{graph}, {session.name}"


def _limits(
    contender: Contender, session: Session, given: str | None, stored: str
) -> tuple[str, ...]:
    """The precisions whose limits a contender is held to: one given, or the artifact's and that
    of OpenVINO's arithmetic."""
    if given is not None:
        return (given,)
    computed = None
    if contender.provider == OPENVINO:
        computed = _ARITHMETIC.get(getattr(session, "precision", ""))
    return (stored,) if computed in (None, stored) else (stored, computed)


def _compare(
    inputs: BenchInputs,
    sessions: Mapping[str, Session],
    limits: Mapping[str, tuple[str, ...]],
    progress: Progress,
) -> tuple[Entry, ...]:
    """Outputs of all contenders against those of the first."""
    expected: tuple[Outputs, ...] = ()
    entries = []
    for name, session in sessions.items():
        progress(f"comparing {name}")
        found = run_all(session, inputs.compared)
        expected = expected or found
        result = agreement(session.shape, inputs.compared, expected, found, limits[name])
        entries.append(Entry(name, result, session.notes))
    return tuple(entries)


def time_in_turn(
    workload: Workload,
    sessions: Mapping[str, Session],
    rounds: int,
    warmup: int,
    say: Progress,
    clock: Callable[[], float] = perf_counter,
) -> list[Timing]:
    """Times of one workload, each round running every session once.

    Args:
        workload: what to run.
        sessions: by name; times are ratios to the first. Without any, there are no times.
        rounds: how often each one runs.
        warmup: runs of each before, not counted.
        say: told what is going on.
        clock: seconds; `time.process_time` leaves out what others do on a busy machine.
    """
    names = list(sessions)
    for name in names:
        say(f"{workload.name}: warm-up of {name}")
        for _ in range(warmup):
            _run(sessions[name], workload)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        say(f"{workload.name}: round {number + 1} of {rounds}")
        # Each one comes first, second, ... equally often: what the one before leaves behind in
        # caches and clock rates falls on all.
        turn = number % len(names) if names else 0
        for name in names[turn:] + names[:turn]:
            start = clock()
            _run(sessions[name], workload)
            seconds[name].append(clock() - start)
    first = seconds[names[0]] if names else []
    return [
        Timing(
            workload.name,
            workload.sentences,
            workload.tokens,
            name,
            tuple(seconds[name]),
            statistics.median(a / b for a, b in zip(seconds[name], first, strict=True)),
        )
        for name in names
    ]


def _run(session: Session, workload: Workload) -> None:
    if workload.feeds is None:
        session(workload.texts)
    else:
        session.run(**workload.feeds)
