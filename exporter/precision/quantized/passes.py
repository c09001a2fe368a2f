"""int8 and fp8: an exported graph with explicit quantization of its linear layers.

The stages are those of `calibration`, one file each: smoothing, weight clipping, insertion of
QuantizeLinear and DequantizeLinear, bias correction. Nothing is run here and no weight is held.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from calibration import initializers
from calibration.bias_correction import add_to_bias, bias_shift
from calibration.clipping import clip_weight
from calibration.formats import Floats, NumberFormat
from calibration.insertion import InsertionReport, SiteScales, insert
from calibration.placement import Placement
from calibration.recipes import Recipes, SiteRecipe
from calibration.sites import Site, find_sites
from calibration.smoothing import SmoothingReport, apply, is_free
from exporter.artifact.onnx_file import PRECISION_KEY


@dataclass(frozen=True, eq=False)
class SolvedSite:
    """Numbers of one quantized site that follow from its recipe and its weight.

    Attributes:
        scales: thresholds of its input and of the columns of its weight.
        shift: fp32 `(N,)`, what its bias is corrected by.
        clipped: columns whose threshold is below their largest weight.
    """

    scales: SiteScales
    shift: Floats
    clipped: int


@dataclass(frozen=True)
class QuantizationReport:
    """What the pass did.

    Attributes:
        number: the format.
        smoothing: where factors went.
        insertion: the nodes and bytes.
        clipped: columns of weights whose threshold is below their largest weight.
        corrected: sites whose bias was corrected.
        kept: sites that stay in float, each with the reason.
        weight_bits: bits that a stored weight uses.
    """

    number: NumberFormat
    smoothing: SmoothingReport
    insertion: InsertionReport
    clipped: int
    corrected: int
    kept: tuple[tuple[str, str], ...]
    weight_bits: int


def solve_sites(
    model: ir.Model,
    placement: Placement,
    recipes: Recipes,
    number: NumberFormat,
    weights: NumberFormat | None = None,
) -> dict[str, SolvedSite]:
    """The numbers of every site of a placement, by name; `model` is smoothed on the way.

    Weights are evaluated one at a time. What a site gets does not depend on whether another one
    is quantized.

    Args:
        model: an exported fp32 graph, of no use afterwards.
        placement: the sites.
        recipes: for every site of the placement, by name.
        number: the format of activations.
        weights: the format of weights; None for the same.
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
) -> QuantizationReport:
    """Quantize the sites of a placement in place; weights follow when the model is written.

    Args:
        model: an exported fp32 graph.
        placement: what to quantize; its sites are those of `model`.
        recipes: for every site of the placement, by name.
        solved: from `solve_sites`, for at least these sites.
        number: the format.

    Raises:
        RuntimeError: what was done is not what the placement says: a defect of ours.
    """
    chosen = placement.quantized
    smoothed = smooth(model, placement, recipes)
    for site in chosen:
        add_to_bias(model, site, solved[site.name].shift)
    inserted = insert(model, [solved[site.name].scales for site in chosen], number)
    if inserted.sites != tuple(site.name for site in chosen):
        raise RuntimeError(
            f"{len(inserted.sites)} sites quantized, but the placement has {len(chosen)}"
        )
    model.metadata_props[PRECISION_KEY] = number.value
    return QuantizationReport(
        number=number,
        smoothing=smoothed,
        insertion=inserted,
        clipped=sum(solved[site.name].clipped for site in chosen),
        corrected=len(chosen),
        kept=tuple((kept.site.name, kept.reason) for kept in placement.kept),
        weight_bits=min(solved[site.name].scales.weight_bits for site in chosen) if chosen else 8,
    )


def smooth(model: ir.Model, placement: Placement, recipes: Recipes) -> SmoothingReport:
    """Smooth a graph in place, as its recipes say.

    Factors that cost no node are folded for a site that fell back to float as well: so the weights
    of the layer's other sites are the same whatever falls back.
    """
    sites = find_sites(model)
    quantized = {site.name for site in placement.quantized}
    chosen = {
        site.name: factors
        for site in sites
        if site.name in recipes
        and (factors := recipes[site.name].factors) is not None
        and (site.name in quantized or is_free(site))
    }
    return apply(model, chosen, sites)


def _solve(
    model: ir.Model,
    site: Site,
    recipe: SiteRecipe,
    number: NumberFormat,
    weights: NumberFormat,
) -> SolvedSite:
    """Thresholds and bias of a smoothed site."""
    weight = initializers.read(model, site.weight)
    clipped = clip_weight(weight, recipe.mean_square, weights)
    # fp8 keeps the range of the input, so its rounding has no preferred direction.
    error = recipe.mean_error if number.is_integer else np.zeros_like(recipe.mean)
    return SolvedSite(
        scales=SiteScales(site, recipe.threshold_for(number), clipped.thresholds, weights),
        shift=bias_shift(weight, clipped.thresholds, recipe.mean, error, weights),
        clipped=clipped.clipped,
    )
