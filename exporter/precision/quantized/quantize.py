"""From an fp32 graph on disk to a quantized one: calibrate or reuse, choose, apply, write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from calibration import initializers
from calibration.calibration_error import CalibrationError
from calibration.formats import NumberFormat
from calibration.observe import MASK
from calibration.placement import place
from calibration.sensitivity import Budget, SensitivityReport
from calibration.sites import find_sites
from calibration.table import ScaleTable
from calibration.table_forms import TableForm
from calibration.tables import (
    POSITIONS,
    Table,
    TableRounding,
    find_tables,
    positions_error,
    word_feedback,
    words_error,
)
from exporter.graph.attention_nodes import attention_nodes
from exporter.graph.finish import GraphSummary, finish
from exporter.model.model_shape import ModelShape
from exporter.precision.quantized.calibrate import calibrate, recipes_of
from exporter.precision.quantized.calibration_text import CalibrationText, TextBatches
from exporter.precision.quantized.candidates import Candidates
from exporter.precision.quantized.choose import FALLBACK, fit_to_budget
from exporter.precision.quantized.passes import QuantizationReport
from exporter.precision.quantized.quantization_options import QuantizationOptions
from exporter.progress import Progress, silent

SILENT = "its input is zero on all calibration text"


@dataclass(frozen=True, eq=False)
class QuantizedFile:
    """How a quantized graph came about.

    `table` notes what fell back; `reused` says that it was there before. There is no `sensitivity`
    without a budget. `tables` are those of the graph, with the relative squared error of each on
    the calibration text; None for one in float.
    """

    summary: GraphSummary
    table: ScaleTable
    reused: bool
    report: QuantizationReport
    sensitivity: SensitivityReport | None
    tables: Mapping[str, float | None]


def quantize_file(
    source: Path,
    target: Path,
    shape: ModelShape,
    text: CalibrationText,
    number: NumberFormat,
    options: QuantizationOptions,
    *,
    model_hash: str,
    form: TableForm = TableForm.INT8,
    table: ScaleTable | None = None,
    resume: Path | None = None,
    external_data: bool | None = None,
    progress: Progress = silent,
) -> QuantizedFile:
    """Quantize a graph and write it to `target`.

    Args:
        source: an exported fp32 graph, its weights in a data file beside it; files that are needed
            on the way are put there and removed.
        text: to calibrate with and to judge by.
        number: the format of activations.
        model_hash: identity of the graph and its weights.
        form: how tables of embeddings are stored.
        table: a scale table of this model to use in the place of a calibration.
        resume: file that keeps what was observed until an interrupted calibration has ended.

    Raises:
        CalibrationError: a policy that fits no site, unusable text, or a broken table.
        InputError: labels that the model does not have.
    """
    exported = ir.load(source)
    sites, layers = find_sites(exported), len(attention_nodes(exported))
    tables = find_tables(exported)
    placement = replace(place(options.policy(), sites), tables=_chosen(tables, options))
    reused = table is not None
    if table is None:
        table = calibrate(source, sites, text.batches, options, model_hash, resume, progress)
        if resume is not None:
            resume.unlink(missing_ok=True)
    recipes = recipes_of(table, placement.quantized)
    # Of what calibration saw nothing any scale would be a guess.
    placement = placement.keep([n for n, recipe in recipes.items() if recipe.all_zero], SILENT)
    if not placement.quantized:
        raise CalibrationError(
            "the inputs of all linear layers to quantize are zero on the calibration text; "
            "check the checkpoint"
        )
    progress("clipping weights")
    weights = options.weights(number)
    sensitivity = None
    with Candidates(source, shape, placement, recipes, number, weights, form) as candidates:
        if options.accuracy_budget is not None:
            budget = Budget(options.accuracy_budget)
            sensitivity = fit_to_budget(candidates, text, budget, progress)
            placement = placement.keep(sensitivity.fallback, FALLBACK)
        model, report = candidates.make(placement)
        summary = finish(model, target, layers, external_data=external_data, progress=progress)
    if sensitivity is not None:
        table = _noted(table, sensitivity, number)
    errors = {item.name: _error(exported, item, report.tables, text.batches) for item in tables}
    return QuantizedFile(summary, table, reused, report, sensitivity, errors)


def _chosen(tables: Sequence[Table], options: QuantizationOptions) -> tuple[Table, ...]:
    """The tables to quantize; those of positions take the type of the rest where that is half."""
    if not options.quantize_embeddings:
        return ()
    return tuple(item for item in tables if item.name != POSITIONS or options.rest == "fp32")


def _error(
    exported: ir.Model, table: Table, stored: Mapping[str, TableRounding], batches: TextBatches
) -> float | None:
    """The error of a table, words weighted by how often the text has them; None in float."""
    if not all(name in stored for name in table.weights):
        return None
    values = (initializers.read(exported, name) for name in table.weights)
    if table.name == POSITIONS:
        return float(np.mean([positions_error(item) for item in values]))
    (words,), (name,) = values, table.weights
    ids = [feeds["input_ids"][feeds[MASK] != 0] for feeds in batches.feeds]
    counts = np.bincount(np.concatenate(ids), minlength=len(words))
    return words_error(words, counts, word_feedback(exported, name))


def _noted(table: ScaleTable, sensitivity: SensitivityReport, number: NumberFormat) -> ScaleTable:
    """The table with what each measured site costs in this format, and what fell back."""
    key, notes = f"{number.value}_sensitivity", dict(table.sites)
    for unit in sensitivity.units:
        for site in unit.sites:
            if site not in notes:
                continue  # a table of embeddings, of which calibration has nothing
            notes[site] = {**notes[site], key: {"cost": unit.cost, "fallback": unit.fallback}}
    return table.with_sites(notes)
