"""Calibration of an fp32 graph: activations observed, recipes made, a scale table to keep them.

A table of the same model serves again: for another build, for fp8 after int8, on another machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from calibration import initializers
from calibration.calibration_error import CalibrationError
from calibration.observe import observe
from calibration.recipes import SiteRecipe, make_recipe, sample_rows
from calibration.resume import Resume
from calibration.sites import Site
from calibration.table import ScaleTable
from exporter.precision.quantized.calibration_text import TextBatches
from exporter.precision.quantized.quantization_options import QuantizationOptions
from exporter.progress import Progress, silent
from exporter.runtime.providers.onnx_session import open_fp32


def calibrate(
    graph: Path,
    sites: Sequence[Site],
    text: TextBatches,
    options: QuantizationOptions,
    model_hash: str,
    resume: Path | None = None,
    progress: Progress = silent,
) -> ScaleTable:
    """Observe the inputs of sites of an exported fp32 graph and make a recipe for each.

    `model_hash` is the identity of the graph and its weights. The file `resume` keeps what was
    observed, to go on after an interruption.

    Raises:
        CalibrationError: no text, an unknown method, NaN in an activation, or all inputs zero.
    """
    seen = observe(
        graph,
        [site.activation for site in sites],
        text.feeds,
        open_fp32,
        sample_rows=sample_rows(sites),
        resume=None if resume is None else Resume(resume, model_hash),
        progress=lambda done, total: progress(f"calibration: batch {done} of {total}"),
    )
    statistics = {site.name: seen.pop(site.activation) for site in sites}
    if all(item.all_zero for item in statistics.values()):
        raise CalibrationError(
            f"{graph.name}: the inputs of all linear layers are zero on the calibration text; "
            "check the checkpoint"
        )
    method, percentile = options.method, options.percentile
    table = ScaleTable.from_statistics(
        statistics,
        model_hash=model_hash,
        data_hash=text.data_hash,
        method=method,
        percentile=percentile,
    )
    model = ir.load(graph)
    entries = {}
    for index, site in enumerate(sites):
        progress(f"smoothing: {site.name} ({index + 1} of {len(sites)})")
        weight = initializers.read(model, site.weight)
        recipe = make_recipe(site, statistics.pop(site.name), weight, method, percentile)
        entries[site.name] = recipe.to_entry()
    return table.with_sites(entries)


def recipes_of(table: ScaleTable, sites: Sequence[Site]) -> dict[str, SiteRecipe]:
    """The recipes of a table.

    Raises:
        CalibrationError: the table has none for a site, or a broken one.
    """
    recipes = {}
    for site in sites:
        if site.name not in table.sites:
            raise CalibrationError(f"the scale table has no entry for {site.name}; calibrate again")
        recipes[site.name] = SiteRecipe.from_entry(site, table.sites[site.name])
    return recipes
