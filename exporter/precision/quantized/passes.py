"""int8 and fp8: an exported graph with explicit quantization of its linear layers, and its tables.

The stages are those of `calibration`, one file each: smoothing, weight clipping, insertion of
QuantizeLinear and DequantizeLinear, bias correction. Nothing is run here and no weight is held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx_ir as ir

from calibration import initializers
from calibration.bias_correction import bias_shift
from calibration.clipping import clip_weight
from calibration.formats import Floats, NumberFormat, scale_of
from calibration.insertion import InsertionReport, SiteScales, insert
from calibration.placement import Placement
from calibration.recipes import Recipes, SiteRecipe
from calibration.sites import Site, find_sites
from calibration.smoothing import SmoothingReport, apply, is_free
from calibration.table_forms import TableForm, store_tables
from calibration.tables import TableRounding
from exporter.artifact.onnx_file import PLAN_KEY, PRECISION_KEY
from exporter.precision.precision_plan import PrecisionPlan, SitePlan, encode_plan


@dataclass(frozen=True, eq=False)
class SolvedSite:
    """Numbers of one quantized site that follow from its recipe and its weight.

    Its bias is corrected by `shift`, fp32 `(N,)`; the threshold of each of the `clipped` columns of
    its weight is below the largest weight.
    """

    scales: SiteScales
    shift: Floats
    clipped: int


@dataclass(frozen=True)
class QuantizationReport:
    """What the pass did: `SolvedSite.clipped` columns, sites whose bias was `corrected`, what
    stays in float with the reason, the bits that a stored weight uses, and see `store_tables`."""

    number: NumberFormat
    smoothing: SmoothingReport
    insertion: InsertionReport
    clipped: int
    corrected: int
    kept: tuple[tuple[str, str], ...]
    weight_bits: int
    tables: Mapping[str, TableRounding]


def solve_sites(
    model: ir.Model,
    placement: Placement,
    recipes: Recipes,
    number: NumberFormat,
    weights: NumberFormat | None = None,
) -> dict[str, SolvedSite]:
    """The numbers of every site of a placement, by name.

    Weights are evaluated one at a time. What a site gets does not depend on whether another one
    is quantized. The exported fp32 `model` is smoothed on the way: it is of no use afterwards.
    `number` is the format of activations, and of weights that have none of their own.
    """
    smooth(model, placement, recipes)
    return {
        site.name: _solve(model, site, recipes[site.name], number, weights or number)
        for site in placement.quantized
    }


def quantize_graph(
    model: ir.Model,
    placement: Placement,
    recipes: Recipes,
    solved: Mapping[str, SolvedSite],
    number: NumberFormat,
    form: TableForm = TableForm.INT8,
) -> QuantizationReport:
    """Quantize what a placement says in place; weights follow when the model is written.

    `model` is the exported fp32 graph; there are recipes and solutions for at least its sites.

    Raises:
        RuntimeError: what was done is not what the placement says: a defect of ours.
    """
    chosen = placement.quantized
    # First: words are rounded by what the weights as exported make of them.
    tables = store_tables(model, placement.tables, form)
    smoothed = smooth(model, placement, recipes)
    for site in chosen:
        initializers.transform(model, site.bias, partial(np.add, solved[site.name].shift))
    inserted = insert(model, [solved[site.name].scales for site in chosen], number)
    if inserted.sites != tuple(site.name for site in chosen):
        raise RuntimeError(
            f"{len(inserted.sites)} sites quantized, but the placement has {len(chosen)}"
        )
    plan = replace(_plan(chosen, recipes, solved, smoothed, number), tables=tables)
    model.metadata_props[PRECISION_KEY] = number.value
    model.metadata_props[PLAN_KEY] = encode_plan(plan)
    return QuantizationReport(
        number=number,
        smoothing=smoothed,
        insertion=inserted,
        clipped=sum(solved[site.name].clipped for site in chosen),
        corrected=len(chosen),
        kept=tuple(placement.kept.items()),
        weight_bits=min(solved[site.name].scales.weight_bits for site in chosen) if chosen else 8,
        tables=tables,
    )


def smooth(model: ir.Model, placement: Placement, recipes: Recipes) -> SmoothingReport:
    """Smooth a graph in place, as its recipes say.

    Factors that cost no node are folded for a site that fell back to float as well: so the weights
    of the layer's other sites are the same whatever falls back.
    """
    sites = find_sites(model)
    found = [site for site in sites if site in placement.quantized or is_free(site)]
    factors = {site.name: recipes[site.name].factors for site in found if site.name in recipes}
    chosen = {name: vector for name, vector in factors.items() if vector is not None}
    return apply(model, chosen, sites)


def _solve(
    model: ir.Model, site: Site, recipe: SiteRecipe, number: NumberFormat, weights: NumberFormat
) -> SolvedSite:
    weight = initializers.read(model, site.weight)
    clipped = clip_weight(weight, recipe.mean_square, weights)
    # fp8 keeps the range of the input, so its rounding has no preferred direction.
    error = recipe.mean_error if number.is_integer else np.zeros_like(recipe.mean)
    scales = SiteScales(site, recipe.threshold_for(number), clipped.thresholds, weights)
    shift = bias_shift(weight, clipped.thresholds, recipe.mean, error, weights)
    return SolvedSite(scales, shift, clipped.clipped)


def _plan(
    sites: Sequence[Site],
    recipes: Recipes,
    solved: Mapping[str, SolvedSite],
    smoothed: SmoothingReport,
    number: NumberFormat,
) -> PrecisionPlan:
    """What was decided about numbers, without the graph."""

    def of(site: Site) -> SitePlan:
        scales = solved[site.name].scales
        return SitePlan(
            input_scale=float(scale_of(scales.activation, number)),
            weight_scale=scale_of(scales.weight, scales.weight_format or number),
            shift=solved[site.name].shift,
            factors=recipes[site.name].factors if site.name in smoothed.multiplied else None,
        )

    formats = {solved[site.name].scales.weight_format or number for site in sites}
    folded = {name: recipes[name].factors for name in smoothed.folded}
    return PrecisionPlan(
        number=number,
        weights=formats.pop() if formats else number,
        sites={site.name: of(site) for site in sites},
        folded={name: factors for name, factors in folded.items() if factors is not None},
    )
