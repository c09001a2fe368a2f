"""What the peers' scripts share: arguments, sentences, and the file that says what came of it.

Each script runs in an environment of its own, with no other part of this project: only numpy here.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Task:
    """One quantizer at work on one checkpoint."""

    model: Path
    calibration: list[dict[str, np.ndarray]]
    test: list[np.ndarray]
    method: str
    output: Path


def feeds_of(ids: np.ndarray) -> dict[str, np.ndarray]:
    """The inputs `(1, S)` of one sentence."""
    return {"input_ids": ids[None], "attention_mask": np.ones_like(ids)[None]}


def read_rows(path: Path) -> list[np.ndarray]:
    """The sentences of an .npz file with `ids` end to end and `lengths`."""
    with np.load(path) as arrays:
        return np.split(arrays["ids"], np.cumsum(arrays["lengths"])[:-1])


def padded(feeds: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """All sentences padded to the longest, with their masks."""
    width = max(item["input_ids"].shape[1] for item in feeds)
    return [
        {
            name: np.pad(values, ((0, 0), (0, width - values.shape[1])))
            for name, values in item.items()
        }
        for item in feeds
    ]


def batches(rows: list[np.ndarray], size: int) -> Iterator[tuple[list[int], dict[str, np.ndarray]]]:
    """Indices and padded inputs `(B, S)`, sorted by length."""
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), i))
    for start in range(0, len(order), size):
        part = order[start : start + size]
        group = padded([feeds_of(rows[i]) for i in part])
        yield part, {name: np.concatenate([item[name] for item in group]) for name in group[0]}


def run(work: Callable[[Task], dict[str, Any]], packages: tuple[str, ...]) -> None:
    """Do the work and write `result.json` into the output folder.

    Args:
        work: returns further fields of the result: `model` (the file or files to count, relative
            to the output folder, the graph first) and perhaps `logits`, `batch`, `note`, `seconds`.
        packages: distributions whose versions count, where they are installed.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--method", required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    task = Task(
        arguments.model,
        [feeds_of(ids) for ids in read_rows(arguments.calibration)],
        read_rows(arguments.test),
        arguments.method,
        arguments.output,
    )
    start = time.perf_counter()
    fields = work(task)
    result = {
        "seconds": time.perf_counter() - start,
        "versions": {name: found for name in packages if (found := _version(name))},
        **fields,
    }
    (arguments.output / "result.json").write_text(json.dumps(result, indent=2))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
