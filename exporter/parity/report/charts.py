"""The plots of a parity result: errors by layer, their spread, decisions, latency."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, prod

import numpy as np

from exporter.metrics.decisions import Doubles
from exporter.metrics.error_spread import Errors
from exporter.metrics.tally import Tally
from exporter.parity.limits import Metric
from exporter.parity.report.text import choice_name
from exporter.parity.result import ParityResult
from exporter.svg import Axis, Plot, log_axis


def layer_plot(result: ParityResult) -> str | None:
    """Errors of each layer, the worst of all data sets, beside their limits."""
    names = result.layers.names
    if not names or not result.data_sets:
        return None
    bounds = {limit.metric: limit.bound for limit in result.limits.limits}
    largest, rms = bounds.get(Metric.LAYER_MAX_RELATIVE), bounds.get(Metric.LAYER_RMS_RELATIVE)
    series = (
        ("largest", largest, [_worst(result, name, "max_relative") for name in names]),
        ("rms", rms, [_worst(result, name, "rms_relative") for name in names]),
    )
    limits = [bound for bound in (largest, rms) if bound is not None]
    axis = log_axis("relative error", [*limits, *(v for _, _, values in series for v in values)])
    short = ["emb", *map(str, range(len(names) - 1))]
    plot = Plot("Error by layer", Axis("layer", -0.4, len(names) - 0.6), axis, short)
    parts = []
    for kind, bound, values in series:
        points = [(i, value if isfinite(value) else axis.high) for i, value in enumerate(values)]
        parts.append(plot.line(points, kind))
        for (x, y), value, name in zip(points, values, names, strict=True):
            shown = kind if bound is None or value <= bound else "bad"
            parts.append(plot.mark(x, y, shown, 3.5, f"{name}, {kind}: {value:.3g}"))
        if bound is not None:
            parts.append(plot.level(bound, kind, f"limit of {kind} {bound:g}"))
    return plot.svg(*parts)


def _worst(result: ParityResult, layer: str, figure: str) -> float:
    """A figure of a layer, the largest of all data sets; infinite where it is not a number."""
    found = [s.layers[layer] for s in result.data_sets if layer in s.layers]
    if any(figures.non_finite for figures in found):
        return float("inf")
    return max((float(getattr(figures, figure)) for figures in found), default=0.0)


def spread_plot(name: str, errors: Errors, bound: float | None) -> str:
    """How many elements have which error, relative to the largest output."""
    total = int(errors.counts.sum()) + errors.exact
    shares = errors.counts / max(1, total)
    used = np.flatnonzero(errors.counts)
    first, last = (int(used[0]), int(used[-1])) if len(used) else (0, len(shares) - 1)
    low, high, edges = max(0, first - 2), min(len(shares), last + 3), errors.edges
    if bound is not None:
        limit = float(np.log10(max(bound, 1e-12)))
        high = max(high, min(len(shares), int(np.searchsorted(edges, limit)) + 1))
    across = Axis("error / largest output", 10.0 ** edges[low], 10.0 ** edges[high], log=True)
    top = max(float(shares.max(initial=0.0)), 0.01) * 1.08
    plot = Plot(f"Errors of {name} by size", across, Axis("share of elements", 0.0, top))
    parts = []
    for index in used:
        start, end = 10.0 ** edges[index], 10.0 ** edges[index + 1]
        bad = bound is not None and start >= bound
        title = f"{start:.2g} to {end:.2g}: {100 * shares[index]:.2f} %"
        parts.append(plot.bar(start, end, float(shares[index]), "bad" if bad else "largest", title))
    if bound is not None:
        parts.append(plot.limit_at(bound, f"limit {bound:g}"))
    return plot.svg(*parts)


def decision_plot(name: str, tallies: Sequence[Tally], result: ParityResult) -> str:
    """The probability of the reference's choice in both models, decision by decision."""
    across = Axis("reference: probability of its choice", 0.0, 1.0)
    plot = Plot(f"Decisions of {name}", across, Axis("candidate: of the same choice", 0.0, 1.0))
    parts = _scatter(plot, np.concatenate([tally.points for tally in tallies]))
    for flip in (flip for tally in tallies for flip in tally.flips):
        choices = (flip.reference, flip.candidate)
        names = " to ".join(choice_name(result.shape, choice, flip.column) for choice in choices)
        kind, at = "tied" if flip.tied else "bad", (flip.reference_score, flip.common_score)
        parts.append(plot.mark(*at, kind, 4.0, f"{names}: {flip.text[:80]}"))
    return plot.svg(*parts)


def value_plot(name: str, errors: Errors) -> str:
    """Values of an output that is no decision, in both models."""
    points = errors.points
    low, high = (float(points.min()), float(points.max())) if points.size else (0.0, 1.0)
    high = max(high, low + 1e-6)
    plot = Plot(f"Values of {name}", Axis("reference", low, high), Axis("candidate", low, high))
    return plot.svg(*_scatter(plot, points))


def _scatter(plot: Plot, points: Doubles) -> list[str]:
    """Points `(N, 2)` around the line where both models are the same."""
    ends = [(plot.x.low, plot.y.low), (plot.x.high, plot.y.high)]
    marks = [plot.mark(x, y, "point", 2.5) for x, y in points.tolist()]
    return [plot.line(ends, "diagonal"), *marks]


def latency_plot(result: ParityResult) -> str | None:
    """Time of each batch by its tokens, padding included, in both models."""
    batches = timed_batches(result)
    if not batches:
        return None
    across = log_axis("tokens in the batch, padding included", [tokens for tokens, *_ in batches])
    down = log_axis("milliseconds", [value for _, *both in batches for value in both])
    plot, parts = Plot("Latency", across, down), []
    # Rings around points: both show where the two are equally fast.
    for side, kind, radius in ((1, "reference", 3.0), (2, "candidate", 5.0)):
        for batch in batches:
            title = f"{kind}: {batch[side]:.3g} ms, {batch[0]} tokens"
            parts.append(plot.mark(batch[0], batch[side], kind, radius, title))
    return plot.svg(*parts)


def timed_batches(result: ParityResult) -> list[tuple[int, float, float]]:
    """Tokens of each batch, padding included, and the milliseconds of reference and candidate."""
    times = [
        (prod(case.shape), 1000 * case.seconds["reference"], 1000 * case.seconds["candidate"])
        for case in result.cases
    ]
    return [item for item in times if item[1] > 0 and item[2] > 0]
