"""Noise of honest builds beside the size of planted faults: parity limits lie between the two.

Random models of every head, width, depth and deviation of the weights are built in each precision
as `deb-export build` does, and compared with the reference on the inputs of a parity check. In some
of them a fault is planted in the reference instead. The worst figure of each metric is a row of
`benchmarks/results/parity_noise.csv`; `tests/unit/parity/test_limits.py` holds the limits to it.

    python benchmarks/parity_noise.py --models 36

Rows are added as they come, and a model that has its rows is not measured again. `--table` prints
the largest honest figure of each precision beside the limit, and which faults the limits catch.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from calibration.data import read_examples
from calibration.formats import NumberFormat
from exporter.conversion import RANGE_TEXTS
from exporter.deberta.checkpoint import open_checkpoint
from exporter.deberta.configuration import DebertaConfig
from exporter.deberta.modeling import encoder_of, make_model
from exporter.deberta.tasks import Task
from exporter.demo import calibration_file, checkpoint_folder
from exporter.graph.export import export_onnx
from exporter.graph.precision.half_file import write_half
from exporter.graph.precision.quantized_file import QuantizeConfig, prepare_text, quantize_file
from exporter.parity.comparison import ParityResult, Reference, compare, run_reference
from exporter.parity.inputs import DEFAULT_TEXTS, ParityCase, read_texts
from exporter.parity.limits import HIGHER_IS_BETTER, Metric, limits_for
from exporter.runtime.feeds import Ids, ModelShape
from exporter.runtime.load import text_encoder
from exporter.runtime.onnx_session import OnnxSession
from exporter.runtime.rounded_session import open_rounded
from exporter.runtime.session import Floats, Session
from exporter.runtime.text import TextEncoder
from exporter.runtime.torch_session import TorchSession
from exporter.verification import parity_cases

RESULTS = Path(__file__).parent / "results" / "parity_noise.csv"
PRECISIONS = ("fp16", "bf16", "int8", "fp8")
METRICS = tuple(metric for metric in Metric if metric is not Metric.NON_FINITE)
DEVIATIONS = (0.02, 0.05, 0.1, 0.15)
SIZES = ((48, 2), (96, 4), (64, 12), (256, 4), (384, 6), (48, 24))
"""Hidden size and layers."""
SHARES = (0.25, 0.25, 0.2, 0.15, 0.1, 0.05)
LONGEST = 64
CALIBRATION_TEXTS = 96


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
    """Figures of one comparison: of a precision, or of the reference with a fault."""

    seed: int
    task: str
    hidden: int
    layers: int
    deviation: float
    subject: str
    max_relative: float
    rms_relative: float
    spread_relative: float
    min_cosine: float | None
    agreement: float | None
    mean_kl: float | None


def choose(seed: int) -> Model:
    """Every head, deviation and size comes up; the largest models are few."""
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
    (folder / "config.json").write_text(json.dumps(raw))
    generator = torch.Generator().manual_seed(model.seed)
    state = {}
    for name, value in make_model(DebertaConfig.from_dict(raw), model.task).state_dict().items():
        noise = torch.randn(value.shape, generator=generator) * model.deviation
        state[name] = noise + 1.0 if name.endswith("LayerNorm.weight") else noise
    save_file(state, folder / "model.safetensors")
    for path in checkpoint_folder().glob("*token*"):
        shutil.copy(path, folder)
    shutil.copy(checkpoint_folder() / "spm.model", folder)


class Prepared:
    """A checkpoint with what its comparisons share."""

    def __init__(self, model: Model, folder: Path) -> None:
        write_checkpoint(model, folder)
        self.folder = folder
        self.checkpoint = open_checkpoint(folder, model.task)
        self.shape = ModelShape(self.checkpoint.config, model.task)
        encoder = text_encoder(folder, model.task, LONGEST)
        assert encoder is not None
        self.encoder: TextEncoder = encoder
        texts = read_texts(calibration_file())
        self.cases: Sequence[ParityCase] = parity_cases(
            self.shape, encoder, texts, DEFAULT_TEXTS, LONGEST
        )
        self.ranges = parity_cases(
            self.shape, encoder, texts[DEFAULT_TEXTS:], RANGE_TEXTS // 4, LONGEST
        )
        with closing(TorchSession(self.checkpoint)) as session:
            self.reference: Reference = run_reference(session, self.cases, _quiet)

    def candidate(self, precision: str) -> Session:
        """The model as `build --precision` makes it, where a parity check runs it."""
        source, target = self.folder / "fp32.onnx", self.folder / f"{precision}.onnx"
        if not source.exists():
            export_onnx(self.checkpoint, source, external_data=True)
        if precision in ("fp16", "bf16"):
            feeds = [case.feeds for case in self.ranges]
            write_half(source, target, precision, feeds)  # type: ignore[arg-type]
            return open_rounded(target, self.shape)
        examples = read_examples(calibration_file()).examples[:CALIBRATION_TEXTS]
        text = prepare_text(self.encoder, self.shape, examples)
        config = QuantizeConfig(NumberFormat(precision))
        quantize_file(source, target, self.shape, text, config, model_hash="noise")
        return OnnxSession(target, self.shape)

    def compare(self, session: Session, precision: str) -> ParityResult:
        """The figures of a session."""
        return compare(self.reference, session, self.cases, limits_for(precision), _quiet)


class Faulty(TorchSession):
    """The reference with a fault in its weights or its inputs."""

    def __init__(self, prepared: Prepared, fault: Callable[[torch.nn.Module, dict], None]) -> None:  # type: ignore[type-arg]
        super().__init__(prepared.checkpoint)
        assert self._model is not None
        self._fault = fault
        for parameter in self._model.parameters():
            parameter.data = parameter.data.clone()
        fault(self._model, {})

    def _execute(self, feeds: Mapping[str, Ids]) -> dict[str, Floats]:
        given = {name: ids.copy() for name, ids in feeds.items()}
        if self._fault is drop_mask:
            given["attention_mask"][:] = 1
        return super()._execute(given)


def drop_mask(model: torch.nn.Module, feeds: object) -> None:
    """Padding is attended to."""


def transpose_values(model: torch.nn.Module, feeds: object) -> None:
    """One square matrix of one layer is transposed."""
    weight = encoder_of(model).layer[0].get_parameter("attention.self.value_proj.weight")
    weight.data = weight.data.t().contiguous()


def swap_slots(model: torch.nn.Module, feeds: object) -> None:
    """Two neighbouring distances have each other's embedding."""
    slots = encoder_of(model).slots
    middle = len(slots) // 2
    slots[[middle + 1, middle + 2]] = slots[[middle + 2, middle + 1]]


def forget_term(model: torch.nn.Module, feeds: object) -> None:
    """Position-to-content attention is left out."""
    for layer in encoder_of(model).layer:
        attention = layer.get_submodule("attention.self")
        attention.config = replace(attention.config, pos_att_type=("c2p",))  # type: ignore[type-var, assignment]


def lose_layer(model: torch.nn.Module, feeds: object) -> None:
    """A feed-forward matrix of the last layer is zero."""
    encoder_of(model).layer[-1].get_parameter("output.dense.weight").data.zero_()


FAULTS = (drop_mask, transpose_values, swap_slots, forget_term, lose_layer)


def measure(model: Model, faults: bool) -> Iterator[Row]:
    """The rows of a model."""
    with tempfile.TemporaryDirectory() as name:
        prepared = Prepared(model, Path(name))
        for precision in PRECISIONS:
            with closing(prepared.candidate(precision)) as session:
                yield _row(model, precision, prepared.compare(session, precision))
        for fault in FAULTS if faults else ():
            with closing(Faulty(prepared, fault)) as session:
                yield _row(model, fault.__name__, prepared.compare(session, "fp32"))


def _row(model: Model, subject: str, result: ParityResult) -> Row:
    worst = {metric.value: _worst(result, metric) for metric in METRICS}
    return Row(**{**asdict(model), "task": model.task.value}, subject=subject, **worst)


def _worst(result: ParityResult, metric: Metric) -> float | None:
    """Over the outputs; None where there is none, as decisions of a model without a head."""
    values = [getattr(total, metric.value) for total in result.totals.values()]
    found = [value for value in values if value is not None]
    if not found:
        return None
    return min(found) if metric in HIGHER_IS_BETTER else max(found)


def _quiet(message: str) -> None:
    del message


def read_rows(path: Path = RESULTS) -> list[Row]:
    """The committed rows."""
    if not path.exists():
        return []
    text = {"task", "subject"}
    whole = {"seed", "hidden", "layers"}

    def value(key: str, cell: str) -> object:
        if key in text:
            return cell
        return None if cell == "" else int(cell) if key in whole else float(cell)

    with path.open(newline="", encoding="utf-8") as stream:
        lines = csv.DictReader(stream)
        return [Row(**{key: value(key, cell) for key, cell in line.items()}) for line in lines]  # type: ignore[arg-type]


def add_rows(path: Path, rows: Sequence[Row]) -> None:
    """Append rows, with a header where the file is new."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(Row.__dataclass_fields__), lineterminator="\n")
        if new:
            writer.writeheader()
        for row in rows:
            cells = {
                key: "" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else cell
                for key, cell in asdict(row).items()
            }
            for key in ("min_cosine", "agreement"):
                if cells[key] != "":
                    cells[key] = f"{getattr(row, key):.9f}"
            writer.writerow(cells)


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Largest honest figures beside the limits, and the share of each fault that they catch."""
    for precision in PRECISIONS:
        yield f"{precision}"
        limits = {limit.metric: limit.bound for limit in limits_for(precision).limits}
        for metric in METRICS:
            cells = []
            for deviation in DEVIATIONS:
                found = [
                    getattr(row, metric.value)
                    for row in rows
                    if row.subject == precision and row.deviation == deviation
                ]
                known = [value for value in found if value is not None]
                worst = min if metric in HIGHER_IS_BETTER else max
                cells.append(f"{worst(known):12.6g}" if known else f"{'-':>12}")
            yield f"  {metric.value:16} {' '.join(cells)}   limit {limits.get(metric, '-')}"
        caught = [f"{fault.__name__} {share:.0%}" for fault, share in _caught(rows, precision)]
        yield f"  catches {', '.join(caught)}"


def _caught(rows: Sequence[Row], precision: str) -> Iterator[tuple[Callable[..., None], float]]:
    for fault in FAULTS:
        planted = [row for row in rows if row.subject == fault.__name__]
        found = [row for row in planted if exceeds(row, precision)]
        if planted:
            yield fault, len(found) / len(planted)


def exceeds(row: Row, precision: str) -> bool:
    """Whether a row is outside the limits of a precision."""
    for limit in limits_for(precision).limits:
        value = None if limit.metric is Metric.NON_FINITE else getattr(row, limit.metric.value)
        if value is not None and not limit.holds(value):
            return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", type=int, default=36)
    parser.add_argument("--table", action="store_true", help="print what there is, and end")
    arguments = parser.parse_args()
    if not arguments.table:
        done = {row.seed for row in read_rows()}
        for seed in range(arguments.models):
            if seed in done:
                continue
            model = choose(seed)
            print(model, flush=True)
            add_rows(RESULTS, list(measure(model, faults=seed % 3 == 0)))
    print("\n".join(table(read_rows())))


if __name__ == "__main__":
    main()
