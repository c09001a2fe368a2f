"""The portable graph in int8 or fp8 as a step of a build, with its scale table beside it."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from calibration.calibration_error import CalibrationError
from calibration.formats import NumberFormat
from calibration.graphs import Feeds
from calibration.table import ScaleTable
from calibration.table_forms import TableForm
from exporter.artifact.files import FileRecord
from exporter.errors import InputError
from exporter.inputs.text_files import calibration_errors
from exporter.model.model_shape import ModelShape
from exporter.model.task import LastLayer
from exporter.precision.converted import Converted
from exporter.precision.quantized.quantization_input import QuantizationInput
from exporter.precision.quantized.quantization_options import QuantizationOptions
from exporter.precision.quantized.quantization_report import (
    TABLE_FILE,
    budget_problems,
    quantization_facts,
)
from exporter.precision.quantized.quantize import quantize_file
from exporter.precision.quantized.reach import reach
from exporter.progress import Progress, silent


def convert_file(
    source: Path,
    target: Path,
    table_file: Path,
    shape: ModelShape,
    given: QuantizationInput,
    *,
    model_hash: str,
    previous: Path,
    judged: Sequence[Feeds],
    form: TableForm = TableForm.INT8,
    external_data: bool | None = None,
    progress: Progress = silent,
) -> Converted:
    """Quantize the graph in `source` and write it to `target`, its scale table to `table_file`.

    Args:
        source: an exported fp32 graph, with its weights in a data file.
        model_hash: see `model_hash_of`.
        previous: folder of an earlier build at the same place, whose scale table serves again. What
            was observed is kept beside it: an interruption removes the build.
        form: how tables of embeddings are stored.
        judged: inputs of the parity check, whose values are compared with the calibrated ranges.
        external_data: see `write_model`.

    Raises:
        InputError: a table of another model, a policy that fits no layer, or values that cannot be
            calibrated.
    """
    number, data_hash = given.precision, given.text.batches.data_hash
    resume = previous.with_name(f".{previous.name}.calibration")
    try:
        with calibration_errors():
            table = given.table
            if table is None:
                table = _earlier_table(given.options, model_hash, data_hash, previous / TABLE_FILE)
            else:
                table.require_model(model_hash, "--scale-table")
            if table is not None:
                progress(f"{number}: using the scale table that is there")
            made = quantize_file(
                source,
                target,
                shape,
                given.text,
                NumberFormat(number),
                given.options,
                model_hash=model_hash,
                form=form,
                table=table,
                resume=resume,
                external_data=external_data,
                progress=lambda message: progress(f"{number}: {message}"),
            )
            progress(f"{number}: values of the judged texts")
            found = reach(source, made.table, judged)
    except InputError:
        resume.unlink(missing_ok=True)  # it would end the same way again
        raise
    for warning in made.table.warnings():
        warnings.warn(warning, stacklevel=2)
    made.table.save(table_file)
    facts = quantization_facts(made, given, form)
    facts["judged_beyond_calibration"] = asdict(found)
    problems = budget_problems(made.sensitivity)
    return Converted(made.summary, {"quantization": facts}, problems, (str(found),))


def model_hash_of(task: str, files: Sequence[FileRecord], last_layer: LastLayer = "full") -> str:
    """Identity of a model: of the bytes of its checkpoint, whatever folder they lie in, and of
    what is computed of its last layer, whose ranges are of those tokens."""
    digest = hashlib.sha256(task.encode())
    if last_layer != "full":
        digest.update(f"\nlast layer: {last_layer}".encode())
    for item in sorted(files, key=lambda item: item.path):
        digest.update(f"\n{item.path} {item.sha256}".encode())
    return digest.hexdigest()


def _earlier_table(
    options: QuantizationOptions, model_hash: str, data_hash: str, path: Path
) -> ScaleTable | None:
    """The table of an earlier build, if that was of this model, these texts and this method."""
    try:
        table = ScaleTable.load(path)
    except CalibrationError:
        return None  # there is none, or one that is to be replaced anyway
    wanted = (options.method, options.percentile if options.method == "percentile" else None)
    same = table.matches(model_hash, data_hash) and (table.method, table.percentile) == wanted
    return table if same else None
