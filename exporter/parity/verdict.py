"""Limits applied to what was measured: the checks of a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from exporter.metrics.figures import Figures, add
from exporter.metrics.tally import Tally, merge
from exporter.parity.limits import (
    DECISION_METRICS,
    HIGHER_IS_BETTER,
    LAYER_METRICS,
    Limit,
    Limits,
    Metric,
)
from exporter.parity.result import CaseResult, Check, DataSetResult, Level

_FIGURES: Mapping[Metric, Callable[[Figures], float | None]] = {
    Metric.NON_FINITE: lambda figures: figures.non_finite,
    Metric.MAX_RELATIVE: lambda figures: figures.max_relative,
    Metric.RMS_RELATIVE: lambda figures: figures.rms_relative,
    Metric.SPREAD_RELATIVE: lambda figures: figures.spread_relative,
    Metric.MIN_COSINE: lambda figures: figures.min_cosine,
    Metric.AGREEMENT: lambda figures: figures.agreement,
    Metric.MEAN_KL: lambda figures: figures.mean_kl,
    Metric.LAYER_MAX_RELATIVE: lambda figures: figures.max_relative,
    Metric.LAYER_RMS_RELATIVE: lambda figures: figures.rms_relative,
    Metric.LAYER_MIN_COSINE: lambda figures: figures.min_cosine,
}
_TALLIES: Mapping[Metric, Callable[[Tally], float | None]] = {
    Metric.CONFIDENCE_SHIFT: lambda tally: _size(tally.confidence_shift),
    Metric.ACCURACY_DROP: lambda tally: tally.accuracy_drop,
    Metric.ECE_SHIFT: lambda tally: _size(tally.ece_shift),
}


def judge(name: str, cases: Sequence[CaseResult], limits: Limits) -> DataSetResult:
    """The figures of a data set over its batches, and every limit on them."""
    outputs = _totals(case.outputs for case in cases)
    layers = _totals(case.layers for case in cases)
    tallies = {}
    for output in outputs:
        merged = merge(case.tallies[output] for case in cases if output in case.tallies)
        if merged is not None:
            tallies[output] = merged
    checks = [
        *_output_checks(name, cases, limits, outputs, tallies),
        *_layer_checks(name, cases, limits, layers),
    ]
    return DataSetResult(
        name=name,
        inputs=sum(case.shape[0] for case in cases),
        layer_inputs=sum(case.shape[0] for case in cases if case.layers),
        outputs=outputs,
        layers=layers,
        tallies=tallies,
        checks=tuple(checks),
        problems=tuple(f"{name}, {case.name!r}: {case.problem}" for case in cases if case.problem),
    )


def _output_checks(
    name: str,
    cases: Sequence[CaseResult],
    limits: Limits,
    outputs: Mapping[str, Figures],
    tallies: Mapping[str, Tally],
) -> Iterator[Check]:
    for output, total in outputs.items():
        for limit in limits.limits:
            if limit.metric in LAYER_METRICS:
                continue
            level = Level.DECISION if limit.metric in DECISION_METRICS else Level.OUTPUT
            if limit.metric in _TALLIES:
                tally = tallies.get(output)
                value = None if tally is None else _TALLIES[limit.metric](tally)
                yield Check(name, level, output, limit, value, *_worst_tally(limit, output, cases))
                continue
            yield _check(name, level, output, limit, total, cases)


def _layer_checks(
    name: str, cases: Sequence[CaseResult], limits: Limits, layers: Mapping[str, Figures]
) -> Iterator[Check]:
    before: str | None = None
    for layer, total in layers.items():
        for limit in limits.limits:
            if limit.metric is Metric.LAYER_ADDED_RELATIVE:
                yield _added_check(name, layer, before, limit, layers, cases)
            elif limit.metric in LAYER_METRICS or limit.metric is Metric.NON_FINITE:
                yield _check(name, Level.LAYER, layer, limit, total, cases)
        before = layer


def added(layers: Mapping[str, Figures], layer: str, before: str | None) -> float:
    """What a layer adds: its rms error less twice that of the layer before, not below 0.

    A sound layer passes an error on with little change, LayerNorm sees to that; one that is wrong
    makes a new one. The embeddings have nothing before them.
    """
    given = 0.0 if before is None else layers[before].rms_relative
    return max(0.0, layers[layer].rms_relative - 2.0 * given)


def _added_check(
    data_set: str,
    layer: str,
    before: str | None,
    limit: Limit,
    layers: Mapping[str, Figures],
    cases: Sequence[CaseResult],
) -> Check:
    worst = max(
        (case for case in cases if layer in case.layers),
        key=lambda case: added(case.layers, layer, before),
    )
    return Check(
        data_set,
        Level.LAYER,
        layer,
        limit,
        added(layers, layer, before),
        worst.name,
        worst.worst_texts.get(layer),
    )


def _totals(parts: Iterator[Mapping[str, Figures]]) -> dict[str, Figures]:
    totals: dict[str, Figures] = {}
    for part in parts:
        for name, found in part.items():
            totals[name] = add(totals[name], found) if name in totals else found
    return totals


def _check(
    data_set: str,
    level: Level,
    subject: str,
    limit: Limit,
    total: Figures,
    cases: Sequence[CaseResult],
) -> Check:
    """One limit on one output or layer: the value over all cases, and the case that is worst."""
    read = _FIGURES[limit.metric]
    value = read(total)
    if limit.metric is Metric.NON_FINITE:
        value = total.non_finite + total.scale.non_finite
    sign = -1.0 if limit.metric in HIGHER_IS_BETTER else 1.0
    ranked = [
        (sign * found, case)
        for case in cases
        if (figures := case.figures(subject)) is not None and (found := read(figures)) is not None
    ]
    if not ranked:
        return Check(data_set, level, subject, limit, value, "", None)
    worst = max(ranked, key=lambda item: item[0])[1]
    text = worst.worst_texts.get(subject)
    return Check(data_set, level, subject, limit, value, worst.name, text)


def _worst_tally(limit: Limit, output: str, cases: Sequence[CaseResult]) -> tuple[str, str | None]:
    """The batch whose decisions show a metric worst, and the first text of it that flipped."""
    ranked = [
        (value, case)
        for case in cases
        if output in case.tallies
        and (value := _TALLIES[limit.metric](case.tallies[output])) is not None
    ]
    if not ranked:
        return "", None
    worst = max(ranked, key=lambda item: item[0])[1]
    flips = worst.tallies[output].flips
    return worst.name, flips[0].text if flips else worst.worst_texts.get(output)


def _size(value: float | None) -> float | None:
    return None if value is None else abs(value)
