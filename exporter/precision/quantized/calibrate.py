"""Calibration of an fp32 graph: activations observed, recipes made, a scale table to keep them.

A table of the same model serves again: for another build, for fp8 after int8, on another machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from calibration import initializers
from calibration.errors import CalibrationError
from calibration.methods import PERCENTILE, Method
from calibration.observe import observe
from calibration.recipes import SiteRecipe, make_recipe, sample_rows
from calibration.resume import Resume
from calibration.sites import Site
from calibration.table import ScaleTable
from exporter.model.feeds import Ids
from exporter.progress import Progress, silent
from exporter.runtime.providers.onnx_session import open_fp32


def calibrate(
    graph: Path,
    sites: Sequence[Site],
    batches: Sequence[Mapping[str, Ids]],
    *,
    method: Method = "minmax",
    percentile: float = PERCENTILE,
    model_hash: str,
    data_hash: str,
    resume: Path | None = None,
    progress: Progress = silent,
) -> ScaleTable:
    """Observe the inputs of sites of an exported fp32 graph and make a recipe for each.

    Args:
        batches: calibration text, int64 inputs by name.
        percentile: for the method of that name.
        model_hash: identity of the graph and its weights.
        data_hash: identity of the text.
        resume: file that keeps what was observed, to go on after an interruption.

    Raises:
        CalibrationError: no text, an unknown method, NaN in an activation, or all inputs zero.
    """
    seen = observe(
        graph,
        [site.activation for site in sites],
        batches,
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
    table = ScaleTable.from_statistics(
        statistics, model_hash=model_hash, data_hash=data_hash, method=method, percentile=percentile
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
