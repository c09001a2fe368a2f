"""What a parity check costs beside the two models' own runs.

v3-base with random weights and the demo's tokenizer and vocabulary (4096 pieces in the place of
128100: smaller embeddings, the same 12 layers), fp32, 200 texts of the demo's calibration file.
Two ways, in turn:

- own: both models, already loaded, run the check's batches and nothing else is done;
- check: `compare_sides` from hashes of files to the verdict, loading of both models and every
  layer's hidden states included: first with an empty cache of the reference, then with a full one.

Before a time counts, the check must pass, and it must pass with the same figures from the cache.

    python benchmarks/parity_cost.py --rounds 3

Rows go to `benchmarks/results/parity_cost.csv`.
"""

from __future__ import annotations

import argparse
import csv
import gc
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import torch
from cpu_traffic import make_checkpoint
from export import processor

from exporter.deberta.checkpoint import open_checkpoint
from exporter.demo import calibration_file
from exporter.graph.export import export_onnx
from exporter.parity.data_sets import DataOptions, make_data_sets
from exporter.parity.inputs import ParityCase
from exporter.parity.result import ParityResult
from exporter.parity.sources import Side, checkpoint_side, onnx_side
from exporter.runtime.feeds import ModelShape
from exporter.runtime.load import text_encoder
from exporter.runtime.options import THREADS_VARIABLE
from exporter.verification import CompareOptions, compare_sides

RESULTS = Path(__file__).parent / "results" / "parity_cost.csv"
SENTENCES = 200


def write_texts(path: Path) -> Path:
    """So many texts, evenly spaced over the demo's file."""
    lines = calibration_file().read_text(encoding="utf-8").splitlines()
    chosen = [lines[index * len(lines) // SENTENCES] for index in range(SENTENCES)]
    path.write_text("\n".join(chosen) + "\n", encoding="utf-8")
    return path


def own_seconds(side: Side, shape: ModelShape, cases: Sequence[ParityCase]) -> float:
    """Time in which a loaded model runs the batches, without hidden states."""
    with closing(side.opens[0](shape)) as runner:
        runner.observe(cases[0].feeds, layers=False)
        start = time.perf_counter()
        for case in cases:
            runner.observe(case.feeds, layers=False)
        return time.perf_counter() - start


def check(reference: Path, candidate: Path, options: CompareOptions) -> tuple[float, ParityResult]:
    """Seconds and result of one whole check."""
    start = time.perf_counter()
    result = compare_sides(checkpoint_side(reference), onnx_side(candidate), options)
    elapsed = time.perf_counter() - start
    if not result:
        raise SystemExit(f"the check fails: {result.failures[0]}")
    return elapsed, result


def figures(result: ParityResult) -> list[float]:
    """What was measured, for comparing two checks."""
    return [item.value for item in result.checks if item.value is not None]


def measure(folder: Path, rounds: int) -> dict[str, object]:
    """One row."""
    checkpoint = make_checkpoint("v3-base", folder / "checkpoint")
    graph = folder / "model.onnx"
    export_onnx(open_checkpoint(checkpoint), graph, external_data=True)
    gc.collect()
    data = DataOptions((write_texts(folder / "texts.txt"),), labels=False, lengths=())
    sides = checkpoint_side(checkpoint), onnx_side(graph)
    shape = sides[0].shape
    assert shape is not None
    encoder = text_encoder(checkpoint, shape.task, shape.config.max_position_embeddings)
    sets = make_data_sets(shape, encoder, data, shape.config.max_position_embeddings)
    cases = [case for item in sets for case in item.cases]
    times: dict[str, list[float]] = {"reference": [], "candidate": [], "first": [], "cached": []}
    for index in range(rounds):
        options = CompareOptions(data, cache=folder / f"cache-{index}")
        times["reference"].append(own_seconds(sides[0], shape, cases))
        times["candidate"].append(own_seconds(sides[1], shape, cases))
        seconds, first = check(checkpoint, graph, options)
        times["first"].append(seconds)
        seconds, again = check(checkpoint, graph, options)
        times["cached"].append(seconds)
        if first.cached or again.cached != len(cases) or figures(first) != figures(again):
            raise SystemExit("the cache gave something else than the run")
        print({name: round(values[-1], 2) for name, values in times.items()}, flush=True)
    own = [sum(pair) for pair in zip(times["reference"], times["candidate"], strict=True)]
    row: dict[str, object] = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "model": "v3-base fp32, random weights, vocabulary of the demo",
        "sentences": SENTENCES,
        "batches": len(cases),
        "tokens": sum(case.mask.size for case in cases),
        "layers": len(first.layers.names),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
    }
    row |= {f"{name}_s": round(statistics.median(values), 2) for name, values in times.items()}
    for name in ("first", "cached"):
        ratios = [value / base for value, base in zip(times[name], own, strict=True)]
        row[f"{name}_ratio"] = round(statistics.median(ratios), 3)
        row[f"{name}_ratio_max"] = round(max(ratios), 3)
    row["peak_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    row["cpu"] = processor()
    return row | {name: version(name) for name in ("torch", "onnxruntime")}


def add_row(row: dict[str, object]) -> None:
    """Append a row, with a header where the file is new."""
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(row), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of both runtimes; all cores by default")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
        os.environ[THREADS_VARIABLE] = str(arguments.threads)
    with tempfile.TemporaryDirectory() as name:
        row = measure(Path(name), arguments.rounds)
    add_row(row)
    print(row)


if __name__ == "__main__":
    main()
