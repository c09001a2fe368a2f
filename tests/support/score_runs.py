"""Runs of `deb-export score` in processes of their own, and what they have written."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def rows_of_run(folder: Path) -> list[dict[str, Any]]:
    """All rows of a run, in order."""
    found: list[dict[str, Any]] = []
    for path in sorted(folder.glob("part-*")):
        if path.suffix == ".jsonl":
            lines = path.read_text(encoding="utf-8").split("\n")[:-1]
            found += [json.loads(line) for line in lines]
        elif path.suffix == ".csv":
            with path.open(encoding="utf-8", newline="") as file:
                found += list(csv.DictReader(file))
        else:
            from pyarrow.parquet import read_table

            found += read_table(path).to_pylist()
    return found


def start_run(
    *arguments: object, before: Callable[[], None] | None = None
) -> subprocess.Popen[str]:
    """`deb-export score` with these arguments, with one thread."""
    return subprocess.Popen(
        [sys.executable, "-m", "exporter", "score", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=before,
    )


def wait_for_shards(folder: Path, count: int, run: subprocess.Popen[str]) -> None:
    """Wait until a run has written so many shards."""
    log, end = folder / "shards.jsonl", time.monotonic() + 120
    while not log.is_file() or log.read_text().count("\n") < count:
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < end, "no shards are written"
        time.sleep(0.01)


def write_numbered(path: Path, count: int, words: Sequence[str] = ("good", "bad", "so")) -> Path:
    """JSON lines with an id and a short text each."""
    rows = ({"id": i, "text": f"{words[i % len(words)]} {i}"} for i in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
