"""The precision step of an int8 or fp8 build: texts, scale table, quantized graph, its report."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from calibration.errors import CalibrationError
from exporter.conversion import Converted
from exporter.errors import InputError
from exporter.files import FileRecord
from exporter.graph.precision.quantization_options import QuantizationOptions
from exporter.runtime.feeds import ModelShape
from exporter.runtime.text import TextEncoder, TextInput
from exporter.verification import demo_texts

if TYPE_CHECKING:
    from calibration.data import Example
    from calibration.sensitivity import Damage, SensitivityReport
    from calibration.table import ScaleTable
    from calibration.thresholds import Method
    from exporter.graph.export import GraphSummary
    from exporter.graph.precision.quantized_file import QuantizeConfig, QuantizedFile

Progress: TypeAlias = Callable[[str], None]

TABLE_FILE = "calibration.json"


@dataclass(frozen=True)
class QuantizationInput:
    """What a quantized build reads beside the checkpoint, checked before any work starts.

    Attributes:
        config: how to quantize.
        examples: texts to calibrate with and to judge by.
        table: a scale table that the user named.
    """

    config: QuantizeConfig
    examples: tuple[Example, ...]
    table: ScaleTable | None

    @property
    def texts(self) -> tuple[TextInput, ...]:
        """The texts without their labels."""
        return tuple(
            item.text if item.pair is None else (item.text, item.pair) for item in self.examples
        )


@dataclass(frozen=True)
class Places:
    """Files of a quantized build.

    Attributes:
        source: the exported fp32 graph, with its weights in a data file.
        target: the graph to write.
        table: the scale table to write.
        previous: folder of an earlier build at the same place, which may have a scale table.
    """

    source: Path
    target: Path
    table: Path
    previous: Path

    @property
    def resume(self) -> Path:
        """What was observed so far: outside of the build, which an interruption removes."""
        return self.previous.with_name(f".{self.previous.name}.calibration")


def quantization_input(
    precision: str, options: QuantizationOptions, data: Path | None
) -> QuantizationInput:
    """Read and check the options, the texts and the scale table of a build.

    Args:
        precision: "int8" or "fp8".
        options: how to quantize.
        data: calibration texts; None takes the demo's.

    Raises:
        InputError: any of them is unusable.
    """
    from calibration.data import read_examples
    from calibration.table import ScaleTable

    try:
        config = _config(precision, options)
        texts = read_examples(data or demo_texts(), labels=options.labels)
        table = None if options.scale_table is None else ScaleTable.load(options.scale_table)
    except CalibrationError as error:
        raise InputError(str(error)) from None
    for warning in texts.warnings:
        warnings.warn(warning, stacklevel=2)
    return QuantizationInput(config, texts.examples, table)


def model_hash(task: str, files: Sequence[FileRecord]) -> str:
    """Identity of a model: of the bytes of its checkpoint, whatever folder they lie in."""
    digest = hashlib.sha256(task.encode())
    for item in sorted(files, key=lambda item: item.path):
        digest.update(f"\n{item.path} {item.sha256}".encode())
    return digest.hexdigest()


def to_quantized(
    places: Places,
    shape: ModelShape,
    encoder: TextEncoder | None,
    given: QuantizationInput,
    *,
    model: str,
    summary: GraphSummary,
    external_data: bool | None,
    say: Progress,
) -> Converted:
    """Write a graph in int8 or fp8, with its scale table beside it.

    Args:
        places: the files.
        shape: the model.
        encoder: its tokenizer.
        given: options, texts, table.
        model: `model_hash` of it.
        summary: what the export made.
        external_data: see `BuildConfig`.
        say: told what is going on.

    Raises:
        InputError: no tokenizer, texts that the model cannot take, a table of another model, or a
            policy that fits no layer.
    """
    from exporter.graph.precision.quantized_file import prepare_text, quantize_file

    number = given.config.number.value
    if encoder is None:
        raise InputError(
            f"--precision {number}: no tokenizer to calibrate with; "
            "add spm.model or tokenizer.json to the checkpoint"
        )
    try:
        text = prepare_text(encoder, shape, given.examples)
        table = _table(given, model, text.batches.data_hash, places.previous / TABLE_FILE)
        if table is not None:
            say(f"{number}: using the scale table that is there")
        made = quantize_file(
            places.source,
            places.target,
            shape,
            text,
            given.config,
            model_hash=model,
            table=table,
            resume=places.resume,
            external_data=external_data,
            progress=lambda message: say(f"{number}: {message}"),
        )
    except CalibrationError as error:
        raise InputError(str(error)) from None
    for warning in made.warnings:
        warnings.warn(warning, stacklevel=2)
    made.table.save(places.table)
    return Converted(
        summary=replace(
            summary,
            nodes=made.nodes,
            initializers=made.initializers,
            weight_bytes=made.written.weight_bytes,
            files=made.written.files,
        ),
        facts={"quantization": _facts(made)},
        problems=_problems(made.sensitivity),
    )


def _config(precision: str, options: QuantizationOptions) -> QuantizeConfig:
    from calibration.formats import NumberFormat
    from calibration.placement import PlacementPolicy, parse_layers
    from calibration.sensitivity import Budget
    from exporter.graph.precision.calibrate import CalibrationConfig
    from exporter.graph.precision.quantized_file import QuantizeConfig

    policy = PlacementPolicy(
        layers=None if options.layers is None else parse_layers(options.layers),
        include=options.include,
        exclude=options.exclude,
    )
    return QuantizeConfig(
        number=NumberFormat(precision),
        policy=policy,
        calibration=CalibrationConfig(cast("Method", options.method), options.percentile),
        budget=None if options.accuracy_budget is None else Budget(options.accuracy_budget),
    )


def _table(
    given: QuantizationInput, model: str, data_hash: str, earlier: Path
) -> ScaleTable | None:
    """The table that the user named, else that of an earlier build if it is the same."""
    from calibration.table import ScaleTable

    if given.table is not None:
        given.table.require_model(model, "--scale-table")
        return given.table
    if not earlier.is_file():
        return None
    try:
        table = ScaleTable.load(earlier)
    except CalibrationError:
        return None  # it is to be replaced anyway
    wanted = given.config.calibration
    percentile = wanted.percentile if wanted.method == "percentile" else None
    same = table.matches(model, data_hash)
    return (
        table if same and (table.method, table.percentile) == (wanted.method, percentile) else None
    )


def _facts(made: QuantizedFile) -> dict[str, Any]:
    """The quantization in a manifest."""
    report = made.report
    facts: dict[str, Any] = {
        "format": report.number.value,
        "scale_table": TABLE_FILE,
        "scale_table_reused": made.reused,
        "method": made.table.method,
        "sites": len(report.insertion.sites),
        "smoothed_by_folding": list(report.smoothing.folded),
        "smoothed_by_node": list(report.smoothing.multiplied),
        "clipped_columns": report.clipped,
        "corrected_biases": report.corrected,
        "weight_bytes_before": report.insertion.float_bytes,
        "weight_bytes": report.insertion.stored_bytes,
        "kept_float": [{"name": name, "reason": reason} for name, reason in report.kept],
    }
    if made.sensitivity is not None:
        facts["accuracy_budget"] = _sensitivity_facts(made.sensitivity)
    return facts


def _sensitivity_facts(report: SensitivityReport) -> dict[str, Any]:
    return {
        "budget": report.budget.share,
        "within": report.within,
        "before": _damage_facts(report.before),
        "after": _damage_facts(report.after),
        "models_run": report.measurements,
        "units": [
            {
                "name": unit.unit,
                "cost": unit.cost,
                "fallback": unit.fallback,
                "without": _damage_facts(unit.without),
            }
            for unit in report.units
        ],
    }


def _damage_facts(damage: Damage) -> dict[str, Any]:
    return {
        **asdict(damage),
        "disagreement": damage.disagreement,
        "accuracy_loss": damage.accuracy_loss,
    }


def _problems(report: SensitivityReport | None) -> tuple[str, ...]:
    """A line where the budget is missed."""
    if report is None or report.within:
        return ()
    after = report.after
    if not after.decisions:
        reached = f"relative error {after.error:.4g}"
    elif after.accuracy_loss is not None:
        reached = f"accuracy {100 * after.accuracy_loss:.2f} points lower"
    else:
        reached = f"{100 * after.disagreement:.2f} % of the decisions differ, KL {after.kl:.3g}"
    return (
        f"accuracy budget {report.budget.share:g} not reached: {reached} on {after.decisions} "
        f"held-back decisions with {len(report.fallback)} linear layers in float, the best found",
    )
