"""int8 and fp8: an exported graph with explicit quantization of its linear layers.

The stages are those of `calibration`, one file each: smoothing, weight clipping, insertion of
QuantizeLinear and DequantizeLinear, bias correction. Nothing is run here and no weight is held:
what runs the model is `exporter.graph.precision.calibrate`.
"""

from __future__ import annotations

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
from calibration.smoothing import Smoothing, SmoothingReport, apply

METADATA = "deb_export.quantization"


@dataclass(frozen=True)
class SiteResult:
    """What was done to one site.

    Attributes:
        name: of the site.
        strength: of its smoothing; None for none.
        clipped: columns of its weight whose threshold is below their largest weight.
        clipping_gain: share of the weighted squared error of its weight that clipping took away.
        shift: root mean square of what its bias was corrected by.
    """

    name: str
    strength: float | None
    clipped: int
    clipping_gain: float
    shift: float


@dataclass(frozen=True)
class QuantizationReport:
    """What the pass did."""

    number: NumberFormat
    smoothing: SmoothingReport
    insertion: InsertionReport
    sites: tuple[SiteResult, ...]
    kept: tuple[tuple[str, str], ...]
    """Sites that stay in float, each with the reason."""


def quantize_graph(
    model: ir.Model, placement: Placement, recipes: Recipes, number: NumberFormat
) -> QuantizationReport:
    """Quantize the sites of a placement in place.

    Weights are evaluated one at a time: once here, for their thresholds, and once when the model
    is written.

    Args:
        model: an exported fp32 graph.
        placement: what to quantize; its sites are those of `model`.
        recipes: for every site of the placement, by name.
        number: the format.

    Raises:
        RuntimeError: the graph or the recipes do not fit the placement: a defect of ours.
    """
    sites = find_sites(model)
    chosen = placement.quantized
    smoothed = apply(model, _smoothings(placement, recipes), sites)
    scales, results = [], []
    for site in chosen:
        recipe = recipes[site.name]
        item, result = _quantized_site(model, site, recipe, number)
        scales.append(item)
        results.append(result)
    inserted = insert(model, scales, number)
    if inserted.sites != tuple(site.name for site in chosen):
        raise RuntimeError(
            f"{len(inserted.sites)} sites quantized, but the placement has {len(chosen)}"
        )
    model.metadata_props[METADATA] = number.value
    return QuantizationReport(
        number=number,
        smoothing=smoothed,
        insertion=inserted,
        sites=tuple(results),
        kept=tuple((kept.site.name, kept.reason) for kept in placement.kept),
    )


def _smoothings(placement: Placement, recipes: Recipes) -> list[Smoothing]:
    """Smoothing of the sites that are quantized."""
    return [
        Smoothing(site, factors)
        for site in placement.quantized
        if (factors := recipes[site.name].factors) is not None
    ]


def _quantized_site(
    model: ir.Model, site: Site, recipe: SiteRecipe, number: NumberFormat
) -> tuple[SiteScales, SiteResult]:
    """Thresholds of a smoothed site; its bias is corrected for them."""
    weight: Floats = initializers.read(model, site.weight)
    clipped = clip_weight(weight, recipe.mean_square, number)
    # fp8 keeps the range of the input, so its rounding has no preferred direction.
    error = recipe.mean_error if number is NumberFormat.INT8 else np.zeros_like(recipe.mean)
    shift = bias_shift(weight, clipped.thresholds, recipe.mean, error, number)
    add_to_bias(model, site, shift)
    result = SiteResult(
        name=site.name,
        strength=recipe.strength,
        clipped=clipped.clipped,
        clipping_gain=1.0 - clipped.error,
        shift=float(np.sqrt(np.mean(np.square(shift)))),
    )
    return SiteScales(site, recipe.threshold_for(number), clipped.thresholds), result
