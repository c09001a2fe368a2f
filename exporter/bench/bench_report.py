"""A measurement as a table on the terminal and as JSON. `docs/runtime.md` has the schema."""

from __future__ import annotations

from math import isfinite
from typing import Any

from exporter.bench.measure import BenchResult, Timing
from exporter.console import aligned
from exporter.environment import environment

FORMAT, SCHEMA = "deb-export-bench", 1
_FIGURES = (
    "workload contender sentences tokens latency_ms tokens_per_second sentences_per_second ratio "
    "seconds"
).split()


def to_table(result: BenchResult) -> str:
    """Who was compared with which outcome, then a block of lines for each workload."""
    rows = [("contender", "max error", "rms error", "")]
    for entry in result.entries:
        found = entry.agreement
        errors = (f"{found.max_relative:.2g}", f"{found.rms_relative:.2g}")
        rows.append((entry.name, *errors, found.verdict))
    lines = aligned(rows, numbers=(1, 2))
    lines += [f"note: {entry.name}: {note}" for entry in result.entries for note in entry.notes]
    for workload in dict.fromkeys(timing.workload for timing in result.timings):
        timings = [timing for timing in result.timings if timing.workload == workload]
        first = timings[0]
        size = f"{first.sentences} sentences, {first.tokens} tokens"
        head = ("", "latency_ms", "20 %", "80 %", "tokens/s", "sentences/s", "time")
        lines += ["", f"{workload} ({size})"]
        lines += aligned([head, *map(_cells, timings)], numbers=range(1, len(head)))
    threads = "the runtime's choice of" if result.threads is None else result.threads
    config = result.config
    turns = f"{config.rounds} rounds in turn after {config.warmup} runs of warm-up"
    lines += ["", f"{threads} threads on a CPU, {turns}; medians, and time as a ratio to the first"]
    return "\n".join(lines)


def to_json(result: BenchResult) -> dict[str, Any]:
    """All figures, with what they were measured on."""
    config = result.config
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "passed": bool(result),
        "artifact": str(config.artifact),
        "precision": result.precision,
        "threads": result.threads,
        "rounds": config.rounds,
        "warmup": config.warmup,
        "environment": environment(),
        "contenders": [
            {
                "name": entry.name,
                "right": bool(entry.agreement),
                "limits": list(entry.agreement.limits),
                "max_relative": _number(entry.agreement.max_relative),
                "rms_relative": _number(entry.agreement.rms_relative),
                "problem": entry.agreement.problem,
                "notes": list(entry.notes),
            }
            for entry in result.entries
        ],
        "timings": [
            {name: getattr(timing, name) for name in _FIGURES}
            | dict(zip(("p20_ms", "p80_ms"), timing.spread_ms, strict=True))
            for timing in result.timings
        ],
    }


def _cells(timing: Timing) -> tuple[str, ...]:
    low, high = timing.spread_ms
    times = (f"{value:.2f}" for value in (timing.latency_ms, low, high))
    rates = (f"{timing.tokens_per_second:.0f}", f"{timing.sentences_per_second:.1f}")
    return (timing.contender, *times, *rates, f"{timing.ratio:.2f}")


def _number(value: float) -> float | None:
    """`value` for JSON, which has no infinity."""
    return value if isfinite(value) else None
