"""The plots of a parity result: errors by layer, their spread, decisions, latency."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, prod

import numpy as np

from exporter.metrics.error_spread import Errors
from exporter.metrics.tally import Tally
from exporter.parity.limits import Metric
from exporter.parity.report.text import choice_name
from exporter.parity.result import ParityResult
from exporter.svg import Axis, Mark, Plot, log_axis

_SMALLEST = 1e-12


def layer_plot(result: ParityResult) -> str | None:
    """Errors of each layer, the worst of all data sets, beside their limits."""
    names = result.layers.names
    if not names or not result.data_sets:
        return None
    bounds = {limit.metric: limit.bound for limit in result.limits.limits}
    series = (
        ("largest", Metric.LAYER_MAX_RELATIVE, [_worst(result, n, "max_relative") for n in names]),
        ("rms", Metric.LAYER_RMS_RELATIVE, [_worst(result, n, "rms_relative") for n in names]),
    )
    limits = [bounds[metric] for _, metric, _ in series if metric in bounds]
    axis = log_axis("relative error", [*limits, *(v for _, _, values in series for v in values)])
    short = ["emb", *(str(index) for index in range(len(names) - 1))]
    plot = Plot("Error by layer", Axis("layer", -0.4, len(names) - 0.6), axis, short)
    parts = []
    for kind, metric, values in series:
        bound = bounds.get(metric)
        drawn = (value if isfinite(value) else axis.high for value in values)
        points = [(float(index), value) for index, value in enumerate(drawn)]
        parts.append(plot.line(points, kind))
        marks = []
        for (x, y), value, name in zip(points, values, names, strict=True):
            failed = bound is not None and not value <= bound
            marks.append(Mark(x, y, "bad" if failed else kind, f"{name}, {kind}: {value:.3g}"))
        parts.append(plot.marks(marks, 3.5))
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
    low = max(0, first - 2)
    high = min(len(shares), last + 3)
    edges = errors.edges
    if bound is not None:
        limit = float(np.log10(max(bound, _SMALLEST)))
        high = max(high, min(len(shares), int(np.searchsorted(edges, limit)) + 1))
    across = Axis("error / largest output", 10.0 ** edges[low], 10.0 ** edges[high], log=True)
    top = max(float(shares.max(initial=0.0)), 0.01) * 1.08
    plot = Plot(f"Errors of {name} by size", across, Axis("share of elements", 0.0, top))
    parts = []
    for index in range(low, high):
        if not errors.counts[index]:
            continue
        start, end = 10.0 ** edges[index], 10.0 ** edges[index + 1]
        bad = bound is not None and start >= bound
        title = f"{start:.2g} to {end:.2g}: {100 * shares[index]:.2f} %"
        parts.append(plot.bar(start, end, float(shares[index]), "bad" if bad else "largest", title))
    if bound is not None:
        parts.append(plot.limit_at(bound, f"limit {bound:g}"))
    return plot.svg(*parts)


def decision_plot(name: str, tallies: Sequence[Tally], result: ParityResult) -> str:
    """The probability of the reference's choice in both models, decision by decision."""
    points = np.concatenate([tally.points for tally in tallies])
    plot = Plot(
        f"Decisions of {name}",
        Axis("reference: probability of its choice", 0.0, 1.0),
        Axis("candidate: of the same choice", 0.0, 1.0),
    )
    marks = [Mark(float(x), float(y), "point") for x, y in points]
    flips = [
        Mark(
            flip.reference_score,
            flip.common_score,
            "tied" if flip.tied else "bad",
            f"{choice_name(result.shape, flip.reference, flip.column)} to "
            f"{choice_name(result.shape, flip.candidate, flip.column)}: {flip.text[:80]}",
        )
        for tally in tallies
        for flip in tally.flips
    ]
    diagonal = plot.line([(0.0, 0.0), (1.0, 1.0)], "diagonal")
    return plot.svg(diagonal, plot.marks(marks, 2.5), plot.marks(flips, 4.0))


def value_plot(name: str, errors: Errors) -> str:
    """Values of an output that is no decision, in both models."""
    points = errors.points
    low, high = (float(points.min()), float(points.max())) if points.size else (0.0, 1.0)
    high = max(high, low + 1e-6)
    plot = Plot(f"Values of {name}", Axis("reference", low, high), Axis("candidate", low, high))
    marks = [Mark(float(x), float(y), "point") for x, y in points]
    return plot.svg(plot.line([(low, low), (high, high)], "diagonal"), plot.marks(marks, 2.5))


def latency_plot(result: ParityResult) -> str | None:
    """Time of each batch by its tokens, padding included, in both models."""
    batches = timed_batches(result)
    if not batches:
        return None
    plot = Plot(
        "Latency",
        log_axis("tokens in the batch, padding included", [tokens for tokens, *_ in batches]),
        log_axis("milliseconds", [value for _, *both in batches for value in both]),
    )
    reference, candidate = (
        [
            Mark(batch[0], batch[side], kind, f"{kind}: {batch[side]:.3g} ms, {batch[0]} tokens")
            for batch in batches
        ]
        for side, kind in ((1, "reference"), (2, "candidate"))
    )
    # Rings around points: both show where the two are equally fast.
    return plot.svg(plot.marks(reference), plot.marks(candidate, 5.0))


def timed_batches(result: ParityResult) -> list[tuple[int, float, float]]:
    """Tokens of each batch, padding included, and the milliseconds of reference and candidate."""
    times = [
        (prod(case.shape), 1000 * case.seconds["reference"], 1000 * case.seconds["candidate"])
        for case in result.cases
    ]
    return [item for item in times if item[1] > 0 and item[2] > 0]
