"""What each precision keeps of a checkpoint's answers: ours beside other quantizers.

Three checkpoints: `demo`; `rescaled`, the same function with outliers inside the attention; and
`held-gains`, fine-tuned with LayerNorm gains held 16 times larger. For each method: accuracy on
the demo's test split, agreement with the fp32 model's decisions, mean KL from it, file size, and
the seconds it took: for ours a whole build from the checkpoint, parity check included, for the
peers their quantizer alone on the stock `torch.onnx.export` graph of the transformers model. All
get the same 256 calibration sentences of the train part.

Before a row counts, PyTorch, the stock graph and our fp32 graph must agree, and `rescaled` must
answer as `demo` does.

    python -m benchmarks.fidelity --sentences sentences.tsv --environments DIR --install

Peers run in virtual environments `DIR/peer-<name>`, which `--install` makes with pinned versions.
A method that cannot run is left out with its reason. Rows go to `benchmarks/results/fidelity.csv`.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.fidelity import others, ours, stock
from benchmarks.fidelity.channels import channel_ratios
from benchmarks.fidelity.environments import Environments
from benchmarks.fidelity.held_gains import fine_tune
from benchmarks.fidelity.metrics import Logits, compare, relative_error
from benchmarks.fidelity.rescaled import rescale
from benchmarks.fidelity.result import Result, Unavailable
from benchmarks.fidelity.rows import Row, make_row, table, write_rows
from benchmarks.fidelity.sentences import Sentences, read_sentences
from exporter.demo import checkpoint_folder
from tools.demo_training.split import load_split

RESULTS = Path(__file__).parents[1] / "results" / "fidelity.csv"
CHECKPOINTS = ("demo", "rescaled", "held-gains")
METHODS = (
    "stock-fp32",
    *(f"deb-export-{name}" for name in ours.METHODS),
    *others.PEERS,
)
ORDER = tuple((checkpoint, method) for checkpoint in CHECKPOINTS for method in METHODS)
AGREEMENT = 1e-4
"""Largest difference of two fp32 implementations, relative to the largest logit."""


@dataclass(frozen=True)
class Bench:
    """What all measurements of one run share."""

    work: Path
    sentences: Sentences
    environments: Environments
    methods: tuple[str, ...]


def make_checkpoints(demo: Path, tsv: Path, work: Path, names: Sequence[str]) -> dict[str, Path]:
    """Folders of the demo and the named checkpoints; derived ones are made where missing."""
    derived = {name: work / name / "checkpoint" for name in names if name != "demo"}
    folders = {"demo": demo, **derived}
    for name, folder in folders.items():
        if (folder / "model.safetensors").exists():
            continue
        print(f"making the checkpoint {name}", flush=True)
        partial = folder.with_name("partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        if name == "rescaled":
            rescale(demo, partial)
        else:
            fine_tune(demo, load_split(tsv), partial)
        for pattern in ("spm.model", "token*.json", "special_tokens_map.json", "added_tokens.json"):
            for path in demo.glob(pattern):
                shutil.copy(path, partial)
        partial.rename(folder)
    return folders


def measure_checkpoint(bench: Bench, name: str, folder: Path, reference: Logits) -> Iterator[Row]:
    """Rows of all methods on one checkpoint; stops the script where fp32 graphs disagree."""
    work = bench.work / name
    work.mkdir(parents=True, exist_ok=True)
    texts = work / "calibration.txt"
    texts.write_text("\n".join(bench.sentences.calibration_texts) + "\n", encoding="utf-8")
    inputs = others.Inputs(work / "stock.onnx", *bench.sentences.save(work))
    rows = bench.sentences.test
    result = _stock(folder, inputs.model, bench.sentences)
    _demand(f"{name}: stock graph", reference, result.logits)
    yield _row(name, "stock-fp32", result, reference, bench)
    for method in (m for m in bench.methods if m != "stock-fp32"):
        print(f"{name}: {method}", flush=True)
        output = work / method
        try:
            if method in others.PEERS:
                peer = others.PEERS[method]
                result = others.measure(peer, bench.environments, inputs, output, rows)
            else:
                own = method.removeprefix("deb-export-")
                result = ours.measure(folder, own, texts, output, rows)
        except Unavailable as error:
            print(f"    left out: {error}", flush=True)
            continue
        if method == "deb-export-fp32":
            _demand(f"{name}: our graph", reference, result.logits)
        yield _row(name, method, result, reference, bench)


def _stock(folder: Path, path: Path, sentences: Sentences) -> Result:
    stock.export(folder, path)
    return Result(
        logits=stock.onnx_logits(path, sentences.test),
        bytes=path.stat().st_size,
        seconds=0.0,
        versions=stock.versions(),
    )


def _demand(name: str, reference: Logits, logits: Logits) -> None:
    """Stop unless the logits are the reference's."""
    error = relative_error(reference, logits)
    if not error <= AGREEMENT:
        raise SystemExit(f"{name} differs from the reference by {error:.1e}: no row would count")


def _row(name: str, method: str, result: Result, reference: Logits, bench: Bench) -> Row:
    try:
        found = compare(reference, result.logits, bench.sentences.labels)
    except ValueError as error:
        return make_row(name, method, dataclasses.replace(result, note=str(error)), None)
    return make_row(name, method, result, found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sentences", type=Path, required=True, help="the demo's sentences.tsv")
    parser.add_argument("--model", type=Path, default=checkpoint_folder(), help="instead of demo")
    parser.add_argument("--work", type=Path, default=Path("artifacts/fidelity"))
    parser.add_argument("--environments", type=Path, help="folder of the peers' environments")
    parser.add_argument("--install", action="store_true", help="make missing environments")
    parser.add_argument("--checkpoints", nargs="+", choices=CHECKPOINTS, default=CHECKPOINTS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--limit", type=int, help="test sentences; rows are then not written")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    work = arguments.work.absolute()
    folders = make_checkpoints(
        arguments.model.absolute(), arguments.sentences, work, arguments.checkpoints
    )
    bench = Bench(
        work=work,
        sentences=read_sentences(arguments.sentences, arguments.model, arguments.limit),
        environments=Environments(arguments.environments, arguments.install),
        methods=tuple(arguments.methods),
    )
    references = {
        name: stock.reference_logits(folder, bench.sentences.test)
        for name, folder in folders.items()
    }
    if "rescaled" in references:
        _demand("rescaled: PyTorch model", references["demo"], references["rescaled"])
    written: list[Row] = []
    for name in arguments.checkpoints:
        ratios = channel_ratios(folders[name], bench.sentences.calibration)
        figures = ", ".join(f"{kind} {ratio:.0f}" for kind, ratio in ratios.items())
        print(f"{name}: largest channel over the median one: {figures}", flush=True)
        for row in measure_checkpoint(bench, name, folders[name], references[name]):
            written.append(row)
            if arguments.limit is None:
                write_rows(arguments.results, [row], ORDER)
    print(table(written))


if __name__ == "__main__":
    main()
