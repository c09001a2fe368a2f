"""Noise of honest builds, and faults beside it: parity limits lie between the two.

Random models of every head, several widths, depths and deviations of the weights are built in each
precision with `exporter.build`; what their own parity check measures is noise, since nothing is
wrong with them. In every third model faults are planted in the weights, and the faulty checkpoint
is compared with the sound one. The worst figure of each metric is a row of
`benchmarks/results/parity_noise.csv`; `tests/unit/parity/test_noise.py` holds the limits to it.

    python -m benchmarks.parity_noise --models 36

A model that has its rows is not measured again. `--table` prints, for each precision and deviation,
the worst honest figure beside the limit, and the share of the faults that the limits catch.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import exporter
from benchmarks.fidelity.rows import processor
from exporter.demo import checkpoint_folder
from exporter.model.task import Task
from exporter.parity.check import compare_sides
from exporter.parity.limits import HIGHER_IS_BETTER, Metric, limits_for
from exporter.parity.result import ParityResult
from exporter.parity.sides import checkpoint_side
from tools.random_configurations import write_random

RESULTS = Path(__file__).parent / "results" / "parity_noise.csv"
PRECISIONS = ("fp16", "bf16", "int8", "fp8")
METRICS = tuple(metric.value for metric in Metric if metric is not Metric.NON_FINITE)
DEVIATIONS = (0.02, 0.05, 0.1, 0.15)
SIZES = ((48, 2), (96, 4), (64, 12), (256, 4), (384, 6), (48, 24))
"""Hidden size and layers."""
SHARES = (0.25, 0.25, 0.2, 0.15, 0.1, 0.05)
LENGTHS = exporter.Range(1, 32, 64)
HONEST_UP_TO = 0.1
"""Deviation up to which every honest build must pass: trained matrices have 0.02 to 0.06. Beyond,
attention of random weights is nearly a choice, which rounding turns into another one."""


@dataclass(frozen=True)
class Model:
    """A random model, which `seed` determines."""

    seed: int
    task: Task
    hidden: int
    layers: int
    deviation: float


@dataclass(frozen=True)
class Row:
    """Worst figures of one comparison.

    Attributes:
        model: what was built, or planted in.
        subject: a precision, or the name of a fault in fp32.
        figures: by metric; None where there is none, as decisions of a model without a head.
    """

    model: Model
    subject: str
    figures: Mapping[str, float | None]


def choose(seed: int) -> Model:
    """Every head, deviation and size comes up; the deepest models are few."""
    rng = np.random.default_rng(seed)
    hidden, layers = SIZES[rng.choice(len(SIZES), p=SHARES)]
    tasks = list(Task)
    return Model(seed, tasks[seed % len(tasks)], hidden, layers, float(rng.choice(DEVIATIONS)))


def write_checkpoint(model: Model, folder: Path) -> None:
    """A checkpoint of random weights with the demo's tokenizer."""
    raw = {
        **json.loads((checkpoint_folder() / "config.json").read_text()),
        "hidden_size": model.hidden,
        "pooler_hidden_size": model.hidden,
        "num_hidden_layers": model.layers,
        "num_attention_heads": max(2, model.hidden // 64),
        "intermediate_size": 4 * model.hidden,
    }
    write_random(folder, raw, model.task, model.deviation, model.seed)


State = dict[str, torch.Tensor]


def transpose_values(state: State) -> None:
    """A square matrix of the first layer is transposed."""
    name = _named(state, "layer.0.attention.self.value_proj.weight")
    state[name] = state[name].t().contiguous()


def swap_slots(state: State) -> None:
    """Two neighbouring distances have each other's embedding."""
    slots = state[_named(state, "rel_embeddings.weight")]
    middle = len(slots) // 2
    slots[[middle + 1, middle + 2]] = slots[[middle + 2, middle + 1]]


def lose_layer(state: State) -> None:
    """A feed-forward matrix of the last layer is zero."""
    names = [name for name in state if name.endswith("output.dense.weight")]
    own = [name for name in names if "attention" not in name]
    last = max(own, key=lambda name: int(name.split("layer.")[1].split(".")[0]))
    state[last].zero_()


FAULTS: tuple[Callable[[State], None], ...] = (transpose_values, swap_slots, lose_layer)


def _named(state: State, ending: str) -> str:
    (name,) = (name for name in state if name.endswith(ending))
    return name


def measure(model: Model, faults: bool) -> Iterator[Row]:
    """The rows of a model."""
    with tempfile.TemporaryDirectory() as name:
        sound = Path(name) / "sound"
        sound.mkdir()
        write_checkpoint(model, sound)
        for precision in PRECISIONS:
            output = Path(name) / precision
            exporter.build(
                exporter.BuildConfig(
                    model=sound,
                    output=output,
                    precision=precision,
                    targets=("onnx",),
                    task=model.task,
                    seq=LENGTHS,
                )
            )
            report = json.loads((output / "parity.json").read_text())
            found = [(check["metric"], check["value"]) for check in report["checks"]]
            yield Row(model, precision, _worst(found))
        for fault in FAULTS if faults else ():
            faulty = Path(name) / fault.__name__
            shutil.copytree(sound, faulty)
            state = load_file(faulty / "model.safetensors")
            fault(state)
            save_file(state, faulty / "model.safetensors")
            sides = (checkpoint_side(folder, model.task) for folder in (sound, faulty))
            yield Row(model, fault.__name__, _worst(_checks(compare_sides(*sides))))


def _checks(result: ParityResult) -> list[tuple[str, float | None]]:
    return [(check.limit.metric.value, check.value) for check in result.checks]


def _worst(checks: Sequence[tuple[str, float | None]]) -> dict[str, float | None]:
    """The worst value of each metric over outputs, layers and data sets."""
    higher = {metric.value for metric in HIGHER_IS_BETTER}
    worst: dict[str, float | None] = {}
    for metric in METRICS:
        values = [value for name, value in checks if name == metric and value is not None]
        choose = min if metric in higher else max
        worst[metric] = choose(values) if values else None
    return worst


def read_rows(path: Path = RESULTS) -> list[Row]:
    """The committed rows."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return [
            Row(
                Model(
                    int(line["seed"]),
                    Task(line["task"]),
                    int(line["hidden"]),
                    int(line["layers"]),
                    float(line["deviation"]),
                ),
                line["subject"],
                {name: float(line[name]) if line.get(name) else None for name in METRICS},
            )
            for line in csv.DictReader(stream)
        ]


def add_rows(path: Path, rows: Sequence[Row]) -> None:
    """Append rows, with a header where the file is new."""
    columns = ["date", "seed", "task", "hidden", "layers", "deviation", "subject"]
    columns += [*METRICS, "cpu", "versions"]
    new = not path.exists()
    versions = " ".join(f"{name} {version(name)}" for name in ("deb-export", "onnxruntime"))
    with path.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        if new:
            writer.writeheader()
        for row in rows:
            cells: dict[str, object] = {
                "date": datetime.now(timezone.utc).date().isoformat(),
                "seed": row.model.seed,
                "task": row.model.task.value,
                "hidden": row.model.hidden,
                "layers": row.model.layers,
                "deviation": row.model.deviation,
                "subject": row.subject,
                "cpu": processor(),
                "versions": versions,
            }
            for name, value in row.figures.items():
                near_one = name in {metric.value for metric in HIGHER_IS_BETTER}
                cells[name] = "" if value is None else f"{value:.{9 if near_one else 4}g}"
            writer.writerow(cells)


def exceeded(row: Row, precision: str) -> tuple[str, ...]:
    """Metrics of a row that are outside the limits of a precision."""
    return tuple(
        limit.metric.value
        for limit in limits_for(precision).limits
        if (value := row.figures.get(limit.metric.value)) is not None and not limit.holds(value)
    )


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Worst honest figures beside the limits, and the share of each fault that they catch."""
    higher = {metric.value for metric in HIGHER_IS_BETTER}
    for precision in PRECISIONS:
        yield f"{precision:24}" + " ".join(f"{deviation:>12}" for deviation in DEVIATIONS)
        limits = {limit.metric.value: limit.bound for limit in limits_for(precision).limits}
        mine = [row for row in rows if row.subject == precision]
        for metric in METRICS:
            cells = []
            for deviation in DEVIATIONS:
                found = [row.figures[metric] for row in mine if row.model.deviation == deviation]
                known = [value for value in found if value is not None]
                worst = min if metric in higher else max
                cells.append(f"{worst(known):12.6g}" if known else f"{'-':>12}")
            yield f"  {metric:22}{' '.join(cells)}   limit {limits.get(metric, '-')}"
        for fault in FAULTS:
            planted = [row for row in rows if row.subject == fault.__name__]
            caught = [row for row in planted if exceeded(row, precision)]
            yield f"  {fault.__name__:22}{len(caught):4} of {len(planted)} caught"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=int, default=36)
    parser.add_argument("--table", action="store_true", help="print what there is, and end")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if not arguments.table:
        done = {row.model.seed for row in read_rows(arguments.results)}
        for seed in range(arguments.models):
            if seed in done:
                continue
            model = choose(seed)
            print(model, flush=True)
            add_rows(arguments.results, list(measure(model, faults=seed % 3 == 0)))
    print("\n".join(table(read_rows(arguments.results))))


if __name__ == "__main__":
    main()
