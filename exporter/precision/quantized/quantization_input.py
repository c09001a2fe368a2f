"""What a quantized build reads beside the checkpoint: checked before any work starts."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from calibration.table import ScaleTable
from calibration.texts import TextItem
from exporter.errors import InputError
from exporter.inputs.encode import TextEncoder
from exporter.inputs.text_files import calibration_errors, calibration_texts
from exporter.model.model_shape import ModelShape
from exporter.precision.quantized.calibration_text import (
    CalibrationText,
    label_indices,
    prepare_text,
)
from exporter.precision.quantized.languages import has_many_scripts, is_other_script
from exporter.precision.quantized.quantization_options import QuantizationOptions

DEMO_TEXTS = "the demo's texts"


@dataclass(frozen=True)
class QuantizationInput:
    """Options, texts and table of a quantized build in `precision`, "int8" or "fp8".

    `source` says whose the texts are: of a file, or the demo's. `texts` are to calibrate with and
    to judge by, `text` is the same, tokenized and divided; `table` is one that the user named.
    """

    precision: str
    options: QuantizationOptions
    source: str
    texts: tuple[TextItem, ...]
    text: CalibrationText
    table: ScaleTable | None


def quantization_input(
    precision: str,
    options: QuantizationOptions,
    data: Path | None,
    shape: ModelShape,
    encoder: TextEncoder | None,
) -> QuantizationInput:
    """Read and check the options, the texts and the scale table of a build.

    `precision` is "int8" or "fp8"; None for `data` takes the demo's texts.

    Raises:
        InputError: any of them is unusable, or there is no tokenizer.
    """
    if encoder is None:
        raise InputError(
            f"--precision {precision}: no tokenizer to calibrate with; "
            "add spm.model or tokenizer.json to the checkpoint"
        )
    if options.labels and data is None:
        raise InputError(
            "--calibration-labels: the demo's texts have none; give --calibration-data"
        )
    if options.weight_bits is not None and precision != "int8":
        raise InputError(f"--weight-bits: {precision} has no use for it; leave it out")
    options.check_layers(shape.num_hidden_layers)
    with calibration_errors():
        texts = calibration_texts(data, shape, labels=options.labels)
        # The thresholds of --scale-table are used as they are.
        table = None if options.scale_table is None else ScaleTable.load(options.scale_table)
        if table is not None and options.method not in (QuantizationOptions().method, table.method):
            raise InputError(
                f"--calibration-method {options.method}: the scale table {options.scale_table} was "
                f"made with {table.method}; leave one of the two out"
            )
        if options.labels:
            label_indices(shape, texts)
        else:  # labels that nobody asked for make no budget of accuracy
            texts = tuple(replace(item, label=None) for item in texts)
        text = prepare_text(encoder, shape, texts)
    for warning in text.batches.warnings:
        warnings.warn(warning, stacklevel=2)
    source = DEMO_TEXTS if data is None else str(data)
    words = (part for item in texts for part in (item.text, *item.second))
    if has_many_scripts(encoder.tokenizer) and not any(map(is_other_script, words)):
        warnings.warn(
            f"the model's vocabulary has many scripts, and the calibration texts ({source}) are in "
            "Latin letters alone: scales may be too narrow for other languages; add texts of them "
            "to --calibration-data",
            stacklevel=2,
        )
    return QuantizationInput(precision, options, source, texts, text, table)
