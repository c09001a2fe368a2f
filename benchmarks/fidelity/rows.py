"""The committed rows: one for each checkpoint and method, the latest measurement."""

from __future__ import annotations

import csv
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path

from benchmarks.fidelity.metrics import Fidelity
from benchmarks.fidelity.result import Result


@dataclass(frozen=True)
class Row:
    """One line of the table, as text; figures are empty where the method gave none."""

    date: str
    checkpoint: str
    method: str
    sentences: str
    accuracy: str
    agreement: str
    kl: str
    size_mb: str
    seconds: str
    note: str
    cpu: str
    versions: str


def make_row(checkpoint: str, method: str, result: Result, found: Fidelity | None) -> Row:
    """The row of a measurement; without `found`, the answers were of no use and the note says why.

    Accuracy and agreement are in percent, KL in nats, sizes in 10^6 bytes.
    """
    return Row(
        date=datetime.now(timezone.utc).date().isoformat(),
        checkpoint=checkpoint,
        method=method,
        sentences=str(len(result.logits)),
        accuracy="" if found is None else f"{100 * found.accuracy:.2f}",
        agreement="" if found is None else f"{100 * found.agreement:.2f}",
        kl="" if found is None else f"{found.kl:.2e}",
        size_mb=f"{result.bytes / 1e6:.2f}",
        seconds=f"{result.seconds:.1f}",
        note=result.note,
        cpu=f"{processor()}, {os.cpu_count()} cores",
        versions=" ".join(f"{name} {number}" for name, number in result.versions.items()),
    )


def write_rows(path: Path, new: Sequence[Row], order: Sequence[tuple[str, str]]) -> None:
    """Put the new rows in the place of those of the same checkpoint and method.

    `order` holds (checkpoint, method); rows that it does not name go.
    """
    rows = {(row.checkpoint, row.method): row for row in (*read_rows(path), *new)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(rows[key]) for key in order if key in rows)


def read_rows(path: Path) -> list[Row]:
    """The rows of an earlier run; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return [Row(**line) for line in csv.DictReader(stream)]


def table(rows: Iterable[Row]) -> str:
    """The rows for a terminal."""
    lines = [
        f"{'checkpoint':13} {'method':24} {'accuracy %':>10} {'agreement %':>11} "
        f"{'KL':>9} {'MB':>7} {'s':>6}  note"
    ]
    lines += [
        f"{row.checkpoint:13} {row.method:24} {row.accuracy or '-':>10} "
        f"{row.agreement or '-':>11} {row.kl or '-':>9} {row.size_mb:>7} {row.seconds:>6}  "
        f"{row.note}".rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def processor() -> str:
    """Name of the CPU, with the integer and bf16 instructions that decide which kernels run."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    values = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
    flags = values.get("flags", "").split()
    useful = [flag for flag in ("avx512_vnni", "amx_int8", "amx_bf16") if flag in flags]
    return f"{values.get('model name', platform.machine())} ({' '.join(useful)})"
