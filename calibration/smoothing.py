"""SmoothQuant: what is hard to quantize moves from activations into weights, without loss.

`x @ W = (x / s) @ (s * W)` for any positive `s` `(K,)`. With `s = amax(x)^a / amax(W)^(1 - a)`
(G. Xiao et al., "SmoothQuant", ICML 2023, equation 4) outlier channels of `x` shrink and their
rows of `W` grow; the strength `a` is searched for each site by the error of its own output.

The attention is linear in its values and mixes positions, not channels, so that the factors of
`attention.output.dense` go into the value columns of the packed projection at no cost. Elsewhere
the activation has another reader, or a nonlinearity before it, and the graph gets a `Mul`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from calibration import initializers
from calibration.formats import Floats, NumberFormat, round_trip, scale_of
from calibration.graphs import put_before
from calibration.sites import Site, SiteKind, matmul_of

STRENGTHS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Strengths tried, beside none."""
LEAST_GAIN = 0.5
"""Share of the squared output error that smoothing must take away to be worth a `Mul`."""
_LARGEST_FACTOR = 2.0**12
"""Factors are kept within this of their mean: a channel that is nearly silent stays so."""

Threshold = Callable[[Floats, Floats], float]
"""Of an activation: from a sample `(rows, K)` and its channels' largest magnitudes `(K,)`."""


@dataclass(frozen=True, eq=False)
class SmoothingChoice:
    """What the search found for a site.

    Attributes:
        strength, factors: those chosen, `s` being fp32 `(K,)`; None for no smoothing.
        errors: relative squared error of the site's output for each strength tried; the key None
            is without smoothing.
    """

    strength: float | None
    factors: Floats | None
    errors: Mapping[float | None, float]


@dataclass(frozen=True)
class SmoothingReport:
    """What smoothing did to a graph: names of sites, by where their factors went."""

    folded: tuple[str, ...]
    multiplied: tuple[str, ...]


def smoothing_factors(activation: Floats, weight: Floats, strength: float) -> Floats:
    """`s` `(K,)`, such that the largest magnitude of `x / s` is that of `x`.

    So what held the range of `x` holds that of `x / s`. Channels without a value, or whose weights
    are zero, get the geometric mean of the others.

    Args:
        activation: `(K,)`, largest magnitude of each input channel.
        weight: `(K, N)`.
        strength: 0 to 1, how much of the difficulty moves to the weight.
    """
    # Each column has its own scale, so a weight is large or small beside its column alone.
    columns = np.abs(weight).max(axis=0)
    rows = (np.abs(weight) / np.where(columns > 0, columns, 1.0)).max(axis=1)
    used = (activation > 0) & (rows > 0)
    if not used.any():
        return np.ones(len(activation), np.float32)
    logs = np.zeros(len(activation))
    logs[used] = strength * np.log(activation[used].astype(np.float64))
    logs[used] -= (1.0 - strength) * np.log(rows[used].astype(np.float64))
    limit = np.log(_LARGEST_FACTOR)
    logs[used] = np.clip(logs[used] - logs[used].mean(), -limit, limit)
    factors = np.exp(logs)
    factors *= (activation / factors).max() / activation.max()
    return factors.astype(np.float32)


def is_free(site: Site) -> bool:
    """Whether the site's factors go into other weights, without a node."""
    return site.kind is SiteKind.ATTENTION_OUTPUT


def search(
    site: Site, sample: Floats, channel_amax: Floats, weight: Floats, threshold: Threshold
) -> SmoothingChoice:
    """The strength of one site with the least error of its output in int8 on a sample.

    Whether smoothing the site costs a node decides how much it must gain.

    Args:
        sample: `(rows, K)`, its input on calibration text, padding left out.
        channel_amax: `(K,)`, largest magnitudes of the input's channels over all calibration text.
        weight: `(K, N)`.
        threshold: by the method that will be used.
    """
    number = NumberFormat.INT8
    wanted = sample @ weight
    # The size of a query, key or value is a matter of convention (a query may be doubled and its
    # key halved), so these are judged each beside itself; what a residual adds, as it is.
    columns = np.ones(1, np.float32)
    if site.kind is SiteKind.QKV:
        size = np.sqrt(np.mean(np.square(wanted), axis=0))
        columns = np.divide(1.0, size, out=np.zeros_like(size), where=size > 0)
    squares = float(np.sum(np.square(wanted * columns), dtype=np.float64))

    def error_with(factors: Floats | None) -> float:
        x, amax, w = sample, channel_amax, weight
        if factors is not None:
            x, amax, w = sample / factors, channel_amax / factors, weight * factors[:, None]
        stored_x = round_trip(x, scale_of(threshold(x, amax), number), number)
        stored_w = round_trip(w, scale_of(np.abs(w).max(axis=0), number), number)
        error = (stored_x @ stored_w - wanted) * columns
        return float(np.sum(np.square(error), dtype=np.float64)) / squares if squares > 0 else 0.0

    factors = {s: smoothing_factors(channel_amax, weight, s) for s in STRENGTHS}
    errors = {None: error_with(None)} | {s: error_with(tried) for s, tried in factors.items()}
    best = min(factors, key=lambda strength: errors[strength])
    needed = 0.0 if is_free(site) else LEAST_GAIN
    if not errors[best] < (1.0 - needed) * errors[None]:
        return SmoothingChoice(None, None, errors)
    return SmoothingChoice(best, factors[best], errors)


def apply(model: ir.Model, factors: Mapping[str, Floats], sites: Sequence[Site]) -> SmoothingReport:
    """Smooth an fp32 graph in place; what it computes stays the same but for rounding.

    `factors` are `s`, fp32 `(K,)`, by name of the site, for any of the sites; `sites` all of them.

    Raises:
        RuntimeError: a site is not in the graph, or factors do not fit it.
    """
    packed = {site.layer: site for site in sites if site.kind is SiteKind.QKV}
    chosen = [site for site in sites if site.name in factors]
    for site in chosen:
        if is_free(site):
            fold_into_values(model, packed[site.layer], site, factors[site.name])
        else:
            multiply(model, site, factors[site.name])
    folded = tuple(site.name for site in chosen if is_free(site))
    return SmoothingReport(folded, tuple(site.name for site in chosen if not is_free(site)))


def fold_into_values(model: ir.Model, qkv: Site, output: Site, factors: Floats) -> None:
    """Divide the values by `factors` `(H*D,)` and multiply the rows of the output projection.

    A RuntimeError says that the sites are not in the graph, or that their sizes do not fit.
    """
    width = output.in_features
    if qkv.out_features != 3 * width or factors.shape != (width,):
        raise RuntimeError(f"{output.name}: factors {factors.shape} do not fit {qkv.name}")
    matmul_of(model, output)
    packed = np.ones(3 * width, np.float32)
    packed[2 * width :] = 1.0 / factors
    for name in (qkv.weight, qkv.bias):
        initializers.transform(model, name, partial(np.multiply, packed))
    initializers.transform(model, output.weight, partial(np.multiply, factors[:, None]))


def multiply(model: ir.Model, site: Site, factors: Floats) -> None:
    """Divide the site's input by `factors` `(K,)` in a `Mul` and multiply the weight's rows.

    A RuntimeError says that the site is not in the graph, or that its size does not fit.
    """
    if factors.shape != (site.in_features,):
        raise RuntimeError(f"{site.name}: factors {factors.shape} for {site.in_features} channels")
    node = matmul_of(model, site)
    source = node.inputs[0]
    assert source is not None
    reciprocal = initializers.add(model, f"{site.name}.smoothing", 1.0 / factors)
    scaled = ir.node("Mul", [source, reciprocal], name=f"{site.name}.smooth")
    name = f"{site.name}.input_smoothed"
    node.replace_input_with(0, put_before(node, model, scaled, name, source, source))
    initializers.transform(model, site.weight, partial(np.multiply, factors[:, None]))
