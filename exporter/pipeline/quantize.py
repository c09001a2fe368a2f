"""The precision step of an int8 or fp8 build: texts, scale table, quantized graph, its report."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from calibration.errors import CalibrationError
from exporter.artifact.files import FileRecord
from exporter.errors import InputError
from exporter.inputs.encode import TextEncoder
from exporter.inputs.text_files import calibration_errors, calibration_texts
from exporter.model.model_shape import ModelShape
from exporter.pipeline.convert import Converted
from exporter.precision.quantized.options import QuantizationOptions
from exporter.precision.quantized.report import TABLE_FILE, quantization_facts
from exporter.progress import Progress

if TYPE_CHECKING:
    from calibration.methods import Method
    from calibration.sensitivity import SensitivityReport
    from calibration.table import ScaleTable
    from calibration.texts import TextItem
    from exporter.graph.export import GraphSummary
    from exporter.precision.quantized.quantized_file import CalibrationText, QuantizeConfig


@dataclass(frozen=True)
class QuantizationInput:
    """What a quantized build reads beside the checkpoint, checked before any work starts.

    Attributes:
        config: how to quantize.
        texts: to calibrate with and to judge by.
        text: the same, tokenized and divided.
        table: a scale table that the user named.
    """

    config: QuantizeConfig
    texts: tuple[TextItem, ...]
    text: CalibrationText
    table: ScaleTable | None


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
    precision: str,
    options: QuantizationOptions,
    data: Path | None,
    shape: ModelShape,
    encoder: TextEncoder | None,
) -> QuantizationInput:
    """Read and check the options, the texts and the scale table of a build.

    Args:
        precision: "int8" or "fp8".
        options: how to quantize.
        data: calibration texts; None takes the demo's.
        shape: the model.
        encoder: its tokenizer.

    Raises:
        InputError: any of them is unusable, or there is no tokenizer.
    """
    from exporter.precision.quantized.quantized_file import prepare_text
    from exporter.precision.quantized.text_batches import label_indices

    if encoder is None:
        raise InputError(
            f"--precision {precision}: no tokenizer to calibrate with; "
            "add spm.model or tokenizer.json to the checkpoint"
        )

    if options.labels and data is None:
        raise InputError("--labels: the demo's texts have none; give --calibration-data")
    if options.weight_bits != 8 and precision != "int8":
        raise InputError(f"--weight-bits: {precision} has no use for it; leave it out")
    with calibration_errors():
        config = _config(precision, options)
        texts = calibration_texts(data, shape, labels=options.labels)
        table = _named_table(options)
        if options.labels:
            label_indices(shape, texts)
        else:  # labels that nobody asked for make no budget of accuracy
            texts = tuple(replace(item, label=None) for item in texts)
        text = prepare_text(encoder, shape, texts)
    for warning in text.warnings:
        warnings.warn(warning, stacklevel=2)
    return QuantizationInput(config, texts, text, table)


def model_hash(task: str, files: Sequence[FileRecord]) -> str:
    """Identity of a model: of the bytes of its checkpoint, whatever folder they lie in."""
    digest = hashlib.sha256(task.encode())
    for item in sorted(files, key=lambda item: item.path):
        digest.update(f"\n{item.path} {item.sha256}".encode())
    return digest.hexdigest()


def to_quantized(
    places: Places,
    shape: ModelShape,
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
        given: options, texts, table.
        model: `model_hash` of it.
        summary: what the export made.
        external_data: see `BuildConfig`.
        say: told what is going on.

    Raises:
        InputError: a table of another model, a policy that fits no layer, or values that cannot be
            calibrated.
    """
    from exporter.precision.quantized.quantized_file import quantize_file

    number, text = given.config.number.value, given.text
    try:
        with calibration_errors():
            if given.table is not None:
                given.table.require_model(model, "--scale-table")
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
    except InputError:
        places.resume.unlink(missing_ok=True)  # it would end the same way again
        raise
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
        facts={"quantization": quantization_facts(made, text.batches.data_hash)},
        problems=_problems(made.sensitivity),
    )


def _config(precision: str, options: QuantizationOptions) -> QuantizeConfig:
    from calibration.formats import NumberFormat
    from calibration.placement import PlacementPolicy, parse_layers
    from calibration.sensitivity import Budget
    from exporter.precision.quantized.calibrate import CalibrationConfig
    from exporter.precision.quantized.quantized_file import QuantizeConfig

    policy = PlacementPolicy(
        layers=None if options.layers is None else parse_layers(options.layers),
        include=options.include,
        exclude=options.exclude,
    )
    return QuantizeConfig(
        number=NumberFormat(precision),
        weights=NumberFormat.INT7 if options.weight_bits == 7 else None,
        policy=policy,
        calibration=CalibrationConfig(cast("Method", options.method), options.percentile),
        budget=None if options.accuracy_budget is None else Budget(options.accuracy_budget),
    )


def _named_table(options: QuantizationOptions) -> ScaleTable | None:
    """The table of --scale-table, whose thresholds are used as they are."""
    from calibration.table import ScaleTable

    if options.scale_table is None:
        return None
    table = ScaleTable.load(options.scale_table)
    if options.method not in (QuantizationOptions().method, table.method):
        raise InputError(
            f"--calibration-method {options.method}: the scale table {options.scale_table} was "
            f"made with {table.method}; leave one of the two out"
        )
    return table


def _table(
    given: QuantizationInput, model: str, data_hash: str, earlier: Path
) -> ScaleTable | None:
    """The table that the user named, else that of an earlier build if it is the same."""
    from calibration.table import ScaleTable

    if given.table is not None:
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
