"""What a parity check costs beside the two models' own runs.

v3-base with random weights and the demo's tokenizer and vocabulary (4096 pieces in the place of
128100: smaller embeddings, the same 12 layers), fp32, 200 texts of the demo's calibration file.
Two ways, in turn:

- own: both models, already loaded, run the check's batches and nothing else is done;
- check: `compare_sides` from hashes of files to the verdict, loading of both models and every
  layer's hidden states included: first with an empty cache of the reference, then with a full one.

Before a time counts, the check must pass, and pass with the same figures from the cache.

    python -m benchmarks.parity_cost --rounds 3 --threads 1

A row for each round goes to `benchmarks/results/parity_cost.csv`.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.cpu_traffic import make_checkpoint
from benchmarks.result_rows import add_row
from exporter.deberta.checkpoint import open_checkpoint
from exporter.demo import calibration_file
from exporter.environment import processor_name
from exporter.graph.export import export_onnx
from exporter.inputs.cases import ParityCase
from exporter.inputs.data_sets import DataOptions, make_data_sets
from exporter.model.model_shape import ModelShape
from exporter.parity.check import CompareOptions, compare_sides
from exporter.parity.result import ParityResult
from exporter.parity.side import Side
from exporter.parity.sides import checkpoint_side, onnx_side
from exporter.runtime.load import text_encoder
from exporter.runtime.runtime_options import THREADS_VARIABLE

RESULTS = Path(__file__).parent / "results" / "parity_cost.csv"
MODEL = "v3-base fp32, random weights, the demo's vocabulary"


def write_texts(path: Path, count: int) -> Path:
    """So many texts, evenly spaced over the demo's file."""
    lines = calibration_file().read_text(encoding="utf-8").splitlines()
    chosen = [lines[index * len(lines) // count] for index in range(count)]
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


def same(first: ParityResult, second: ParityResult) -> bool:
    """Whether two checks measured the same, to a hundredth of each limit.

    Not to the bit: a processor may sum in another order where an array lies at another address.
    """
    pairs = zip(first.checks, second.checks, strict=True)
    return all(
        (one.value is None) == (two.value is None)
        and abs((one.value or 0.0) - (two.value or 0.0)) <= 0.01 * one.limit.bound
        for one, two in pairs
    )


def measure(folder: Path, rounds: int, sentences: int) -> Iterator[dict[str, object]]:
    """A row for each round, everything in turn."""
    checkpoint = make_checkpoint("v3-base", folder / "checkpoint")
    graph = folder / "model.onnx"
    export_onnx(open_checkpoint(checkpoint), graph, external_data=True)
    gc.collect()
    data = DataOptions((write_texts(folder / "texts.txt", sentences),), labels=False, lengths=())
    sides = checkpoint_side(checkpoint), onnx_side(graph)
    shape = sides[0].shape
    assert shape is not None
    encoder = text_encoder(checkpoint, shape.task, shape.max_position_embeddings)
    sets = make_data_sets(shape, encoder, data, shape.max_position_embeddings)
    cases = [case for item in sets for case in item.cases]
    for index in range(rounds):
        options = CompareOptions(data, cache=folder / f"cache-{index}")
        reference, candidate = (own_seconds(side, shape, cases) for side in sides)
        first_seconds, first = check(checkpoint, graph, options)
        cached_seconds, again = check(checkpoint, graph, options)
        if first.cached or again.cached != len(cases) or not same(first, again):
            raise SystemExit("the cache gave something else than the run")
        own = reference + candidate
        yield {
            "date": datetime.now(timezone.utc).date().isoformat(),
            "model": MODEL,
            "sentences": sentences,
            "batches": len(cases),
            "tokens": sum(case.mask.size for case in cases),
            "layers": len(first.layers.names),
            "threads": torch.get_num_threads(),
            "reference_s": round(reference, 2),
            "candidate_s": round(candidate, 2),
            "first_s": round(first_seconds, 2),
            "cached_s": round(cached_seconds, 2),
            "first_ratio": round(first_seconds / own, 3),
            "cached_ratio": round(cached_seconds / own, 3),
            "cpu": processor_name(),
            **{name: version(name) for name in ("torch", "onnxruntime")},
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sentences", type=int, default=200)
    parser.add_argument("--threads", type=int, help="of both runtimes; all cores by default")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
        os.environ[THREADS_VARIABLE] = str(arguments.threads)
    ratios: dict[str, list[float]] = {"first_ratio": [], "cached_ratio": []}
    with tempfile.TemporaryDirectory() as name:
        for row in measure(Path(name), arguments.rounds, arguments.sentences):
            add_row(RESULTS, row)
            print(row, flush=True)
            for column, values in ratios.items():
                values.append(float(str(row[column])))
    for column, values in ratios.items():
        print(f"{column}: median {statistics.median(values):.3f}, largest {max(values):.3f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"largest memory of the process, setting up included: {peak:.2f} GiB")


if __name__ == "__main__":
    main()
