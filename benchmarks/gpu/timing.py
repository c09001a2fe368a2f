"""Times of contenders on one GPU, in turn, in one process; rows and table of what was found.

A contender is timed as a CUDA graph where it can be captured, so that launches cost the same for
all; the row says which. Every round times each contender once, in an order that rotates.
"""

from __future__ import annotations

import csv
import gc
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

NO_GPU = 3
"""Exit code where PyTorch has no CUDA device."""
Run = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Row:
    """One contender at one shape."""

    date: str
    gpu: str
    versions: str
    scope: str
    contender: str
    dtype: str
    batch: int
    length: int
    graph: bool
    rounds: int
    median_us: float
    low_us: float
    """20th percentile."""
    high_us: float
    """80th percentile."""
    tera_per_s: float
    """Needed operations by time, 1e12 a second."""
    of_matmul: float
    """The same as a part of the matrix product's rate measured in this run."""
    peak_mib: float
    """Most memory during a call, beyond inputs and output."""
    error: float
    """Largest difference from the reference, relative to its largest value."""


@dataclass(frozen=True)
class Failure:
    """A contender that did not run or was wrong, and why."""

    contender: str
    reason: str


@dataclass(frozen=True)
class Prepared:
    """A contender that is right, ready to be timed."""

    run: Callable[[], object]
    graph: bool
    peak_mib: float
    error: float


def missing_gpu() -> str | None:
    """Why nothing can be timed here; None where there is a GPU."""
    if torch.cuda.is_available():
        return None
    return (
        f"no GPU: PyTorch {torch.__version__} sees no CUDA device. "
        "This benchmark times GPUs; run it on one."
    )


def prepare(run: Run, reference: torch.Tensor, valid: torch.Tensor, limit: float) -> Prepared:
    """Check a contender, measure its memory, and capture it as a graph where that works.

    Args:
        run: one call; takes nothing, gives `(B, S, E)`.
        reference: what it must give, fp32.
        valid: bool `(B, S)`, where it must.
        limit: largest relative error.

    Raises:
        ValueError: its result is wrong.
    """
    with torch.inference_mode():
        result = run()  # also compiles and tunes
        wanted = reference[valid]
        error = float((result.float()[valid] - wanted).abs().max() / wanted.abs().max())
        if not error <= limit:
            raise ValueError(f"wrong by {error:.1e} of the largest value; the limit is {limit:.1e}")
        output = result.numel() * result.element_size()
        del result
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - before - output
    graph = _captured(run)
    return Prepared(graph or run, graph is not None, max(peak, 0) / 2**20, error)


def interleaved(
    contenders: Mapping[str, Prepared], rounds: int, least_us: float = 200.0
) -> dict[str, list[float]]:
    """Microseconds of a call in each round, by contender.

    A round repeats the call until it is at least about `least_us` long, and divides.
    """
    names = list(contenders)
    repeats = {}
    for name in names:
        _timed(contenders[name].run, 3)
        repeats[name] = max(1, round(least_us / _timed(contenders[name].run, 3)))
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            times[name].append(_timed(contenders[name].run, repeats[name]))
    return times


def matmul_rate(dtype: torch.dtype, rounds: int = 20, side: int = 8192) -> float:
    """Operations per second of PyTorch's product of two square matrices, median of the rounds."""
    one = torch.randn(side, side, device="cuda", dtype=dtype)
    other = torch.randn(side, side, device="cuda", dtype=dtype)
    _timed(lambda: one @ other, 3)
    seconds = statistics.median(_timed(lambda: one @ other, 1) for _ in range(rounds)) * 1e-6
    return float(2 * side**3 / seconds)


def percentiles(times: Sequence[float]) -> tuple[float, float, float]:
    """20th, 50th and 80th percentile."""
    if len(times) == 1:
        return times[0], times[0], times[0]
    fifths = statistics.quantiles(times, n=5, method="inclusive")
    return fifths[0], statistics.median(times), fifths[-1]


def make_row(
    name: str,
    prepared: Prepared,
    times: Sequence[float],
    *,
    scope: str,
    dtype: str,
    shape: tuple[int, int],
    operations: float,
    rate: float,
) -> Row:
    """A row of one contender.

    Args:
        name, prepared, times: the contender, and its rounds in microseconds.
        scope: what was timed.
        dtype: storage type.
        shape: batch and length.
        operations: what one call needs.
        rate: operations per second of the matrix product, of `matmul_rate`.
    """
    low, median, high = percentiles(times)
    per_second = operations / (median * 1e-6)
    return Row(
        date=datetime.now(timezone.utc).date().isoformat(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        versions=versions(),
        scope=scope,
        contender=name,
        dtype=dtype,
        batch=shape[0],
        length=shape[1],
        graph=prepared.graph,
        rounds=len(times),
        median_us=round(median, 2),
        low_us=round(low, 2),
        high_us=round(high, 2),
        tera_per_s=round(per_second / 1e12, 2),
        of_matmul=round(per_second / rate, 4),
        peak_mib=round(prepared.peak_mib, 2),
        error=float(f"{prepared.error:.2e}"),
    )


def versions() -> str:
    """What is installed of the contenders and below them."""
    found = []
    for name in ("torch", "triton", "transformers", "flashdeberta", "disentangled-flash"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return " ".join([*found, f"CUDA {torch.version.cuda}"])


def append_rows(rows: Sequence[Row], path: Path) -> None:
    """Append to a CSV file, with a header where it is new."""
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Row)], lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def table(rows: Sequence[Row], ours: str) -> str:
    """Text: a line for each row, with the speed of `ours` by that of the contender."""
    medians = {(row.batch, row.length, row.contender): row.median_us for row in rows}
    lines = [
        f"{'B':>4} {'S':>5}  {'contender':24} {'us':>10} {'20 %':>10} {'80 %':>10} "
        f"{'Top/s':>7} {'of matmul':>9} {'MiB':>8} {'error':>8}  ours is"
    ]
    for row in rows:
        base = medians.get((row.batch, row.length, ours))
        ratio = "" if base is None or row.contender == ours else f"{row.median_us / base:.2f} x"
        lines.append(
            f"{row.batch:4} {row.length:5}  {row.contender:24} {row.median_us:10.1f} "
            f"{row.low_us:10.1f} {row.high_us:10.1f} {row.tera_per_s:7.1f} {row.of_matmul:9.1%} "
            f"{row.peak_mib:8.1f} {row.error:8.1e}  {ratio}"
        )
    return "\n".join(lines)


def _captured(run: Run) -> Callable[[], object] | None:
    """Replays the call as a CUDA graph; None where it cannot be captured."""
    graph = torch.cuda.CUDAGraph()
    try:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.inference_mode(), torch.cuda.stream(side):
            run()
        torch.cuda.current_stream().wait_stream(side)
        with torch.inference_mode(), torch.cuda.graph(graph):
            run()
        graph.replay()
        torch.cuda.synchronize()
    except RuntimeError:
        # A failed capture may leave an error behind; it must not be the next contender's.
        gc.collect()
        torch.cuda.synchronize()
        return None
    return graph.replay


def _timed(run: Callable[[], object], repeats: int) -> float:
    """Microseconds of one of `repeats` calls in a row."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.inference_mode():
        start.record()
        for _ in range(repeats):
            run()
        end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1000.0 / repeats
