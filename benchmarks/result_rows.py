"""Rows of a benchmark, added to its file of results."""

from __future__ import annotations

import csv
from pathlib import Path


def add_row(results: Path, row: dict[str, object]) -> None:
    """Append a row to a CSV file, with a header where the file is new."""
    new = not results.exists()
    with results.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(row), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)
