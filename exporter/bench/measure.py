"""Timing in turns: each round runs every contender once, each time in another order."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from operator import truediv
from time import perf_counter

import numpy as np

from exporter.artifact.manifest import read_manifest
from exporter.bench.agreement import Agreement, Outputs, agreement
from exporter.bench.bench_config import BenchConfig
from exporter.bench.workloads import Workload, make_inputs
from exporter.progress import Progress, silent
from exporter.runtime.load import artifact_shape, open_session, suited, text_encoder
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
        sentences, tokens: examples and valid tokens in one run.
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
        """Median."""
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

    Raises:
        InputError: the artifact, a graph, a shape or the texts cannot be used.
        MissingDependencyError: a provider's software or hardware is missing.
    """
    manifest = read_manifest(config.artifact)
    shape = artifact_shape(config.artifact, manifest)
    encoder = text_encoder(config.artifact, shape.task, manifest.seq.max, shape.gliner)
    workloads, compared = make_inputs(config, manifest, shape, encoder)
    names = [graph.name for graph in config.against]
    sessions: dict[str, Session] = {}
    with ExitStack() as stack:
        for provider, graph in config.contenders:
            progress(f"loading {'the artifact' if graph is None else graph.name} on {provider}")
            options = suited(config.options, provider)
            session = open_session(config.artifact, manifest, provider, options, graph)
            stack.enter_context(session)
            what: object = "artifact"
            if graph is not None:  # graphs of the same name keep their path
                what = graph if names.count(graph.name) > 1 else graph.name
            sessions[f"{what}, {session.name}"] = session
        expected: list[Outputs] = []
        entries = []
        for name, session in sessions.items():
            progress(f"comparing {name}")
            found: list[Outputs] = [session.run(**feeds) for feeds in compared]
            expected = expected or found
            limits = (config.limits,) if config.limits else _limits(session, manifest.precision)
            result = agreement(shape, compared, expected, found, limits)
            entries.append(Entry(name, result, session.notes))
        right = {entry.name: sessions[entry.name] for entry in entries if entry.agreement}
        timings = [
            timing
            for workload in workloads
            for timing in time_in_turn(workload, right, config.rounds, config.warmup, progress)
        ]
    threads = config.options.resolved().threads
    return BenchResult(config, manifest.precision, threads, tuple(entries), tuple(timings))


def _limits(session: Session, stored: str) -> tuple[str, ...]:
    """The precisions whose limits count: the artifact's, and that of OpenVINO's arithmetic."""
    computed = _ARITHMETIC.get(getattr(session, "precision", ""))
    return (stored,) if computed in (None, stored) else (stored, computed)


def time_in_turn(
    workload: Workload,
    sessions: Mapping[str, Session],
    rounds: int,
    warmup: int,
    say: Progress,
    clock: Callable[[], float] = perf_counter,
) -> list[Timing]:
    """Times of one workload, each round running every session once.

    Times are ratios to the first of the sessions; `warmup` runs of each are not counted. As a
    clock, `time.process_time` leaves out what others do on a busy machine.
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
    first = next(iter(seconds.values()), [])
    size = (workload.name, workload.sentences, workload.tokens)
    return [
        Timing(*size, name, tuple(own), statistics.median(map(truediv, own, first)))
        for name, own in seconds.items()
    ]


def _run(session: Session, workload: Workload) -> None:
    if workload.feeds is None:
        session(workload.texts)
    else:
        session.run(**workload.feeds)
