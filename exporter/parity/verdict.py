"""Limits applied to what was measured: the checks of a data set.

Where the noise of a precision on this model is known, see `exporter.parity.check`, a limit of ours
is at least `FACTOR` times that.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from math import inf, sqrt

from exporter.metrics.answers import Answers
from exporter.metrics.decisions import TIE_ERRORS
from exporter.metrics.figures import Figures, Scale, add
from exporter.metrics.tally import merge
from exporter.parity.limits import (
    BUILT_IN,
    HIGHER_IS_BETTER,
    TALLY_METRICS,
    Level,
    Limit,
    Limits,
    Metric,
    limits_for,
)
from exporter.parity.result import CaseResult, Check, DataSetResult

_USUAL_SHARE = 0.25
"""Of the permitted rms error; honest builds have less, but for weights larger than trained ones."""

FACTOR = 3.0
"""Of 180 honest builds (benchmarks/parity_noise.py) those that left the constant limits had up to
2.3 times the noise; in figures that go with the square of the error, up to 3.8 times."""

_SQUARES = frozenset({Metric.MIN_COSINE, Metric.LAYER_MIN_COSINE, Metric.CORRELATION})
_SQUARES |= {Metric.MEAN_KL, Metric.SPEARMAN}
_LINEAR = frozenset({Metric.MAX_RELATIVE, Metric.RMS_RELATIVE, Metric.SPREAD_RELATIVE})
_LINEAR |= {Metric.CONFIDENCE_SHIFT, Metric.LAYER_MAX_RELATIVE, Metric.LAYER_RMS_RELATIVE}
_LINEAR |= {Metric.LAYER_ADDED_RELATIVE}
_SHARES = frozenset({Metric.TIED_FLIPS, Metric.AGREEMENT, Metric.ORDER_FLIPS, Metric.EXACT_MATCH})
_SHARES |= {Metric.ENTITY_PRECISION, Metric.ENTITY_RECALL, Metric.ANSWER_F1, Metric.TOP5_OVERLAP}
"""Of decisions; in the noise one more may always have changed."""
_CORRELATIONS = frozenset({Metric.CORRELATION, Metric.SPEARMAN})
_LEAST = 0.1
"""Correlations are limited however large the noise is: a constant has 0."""


def relative_to_noise(limits: Limits) -> Limits:
    """For a graph that no plan describes: where noise is a measure, ours are no wider than fp32's
    without it."""
    exact = {limit.metric: limit for limit in limits_for("fp32").limits}
    ours = [limit for limit in limits.limits if limit.origin == BUILT_IN]
    return limits.replaced(
        exact[limit.metric] for limit in ours if limit.metric in _SQUARES | _LINEAR
    )


@dataclass(frozen=True)
class Noise:
    """What rounding alone does to a model, the worst over data sets, which are relative to one
    scale: one of few inputs says little.

    Attributes:
        values: by level, subject and metric.
        errors: rms error of the logits that decide, by output.
    """

    values: Mapping[tuple[Level, str, Metric], float]
    errors: Mapping[str, float]


def noise_of(cases: Sequence[CaseResult]) -> Noise:
    """The figures of a model of which nothing but rounding is wrong."""
    free = Limits("", tuple(Limit(metric, inf, "") for metric in Metric))
    values: dict[tuple[Level, str, Metric], float] = {}
    errors: dict[str, float] = {}
    for item in judge_sets(cases, free):
        for check in item.checks:
            if check.value is not None:
                metric = check.limit.metric
                key, worse = (check.level, check.subject, metric), max
                if metric in HIGHER_IS_BETTER:
                    worse = min
                values[key] = worse(values.get(key, check.value), check.value)
        for name, tally in item.tallies.items():
            errors[name] = max(errors.get(name, 0.0), tally.rms_error)
    return Noise(values, errors)


@dataclass(frozen=True)
class _Bounds:
    """The limits on one data set of so many decisions, and the noise, where it is known."""

    limits: Limits
    noise: Noise | None
    decisions: int

    def of(self, limit: Limit, level: Level, subject: str) -> Limit:
        """A limit of ours, at least `FACTOR` times the noise; a user's stays."""
        metric = limit.metric
        value = None if self.noise is None else self.noise.values.get((level, subject, metric))
        if self.noise is None or value is None or limit.origin != BUILT_IN:
            return limit
        if metric not in _SQUARES | _LINEAR | _SHARES:
            return limit
        best = 1.0 if metric in HIGHER_IS_BETTER else 0.0
        room = abs(value - best) * (FACTOR**2 if metric in _SQUARES else FACTOR)
        if metric in _SHARES:
            room += FACTOR / max(1, self.decisions)
        if metric is Metric.LAYER_ADDED_RELATIVE:  # nothing, where errors pile up slowly
            room = max(room, self.noise.values[level, subject, Metric.LAYER_RMS_RELATIVE])
        if metric is Metric.CONFIDENCE_SHIFT:
            # Its signs may cancel. Pinsker's inequality: no probability moves by more, on average.
            kl = self.noise.values.get((level, subject, Metric.MEAN_KL), 0.0)
            room = max(room, sqrt(kl / 2.0))
        if room <= abs(limit.bound - best):
            return limit
        bound = room if not best else 1.0 - room
        if metric in _CORRELATIONS:
            bound = max(_LEAST, bound)
        return replace(limit, bound=bound)

    def near_tie(self, output: str, error: float, scale: Scale) -> tuple[float, float]:
        """The margin of a near tie, and the rms error of the logits that rounding explains.

        A candidate that errs more than it may has no more near ties, nor an excuse for their flips.
        """
        (limit,) = (item for item in self.limits.limits if item.metric is Metric.RMS_RELATIVE)
        permitted = self.of(limit, Level.OUTPUT, output).bound * scale.rms
        usual = _USUAL_SHARE * limit.bound * scale.rms
        if self.noise is not None:
            usual = max(usual, self.noise.errors.get(output, 0.0))
        return TIE_ERRORS * min(error, permitted), min(error, usual)


def judge_sets(
    cases: Sequence[CaseResult], limits: Limits, noise: Noise | None = None
) -> tuple[DataSetResult, ...]:
    """The figures of each data set over its batches, and every limit on them.

    Args:
        cases: batches of all data sets.
        limits: of the precision, or a user's.
        noise: what rounding alone does to this model, where it was measured.
    """
    names = dict.fromkeys(case.data_set for case in cases)
    return tuple(
        _judge(name, [c for c in cases if c.data_set == name], limits, noise) for name in names
    )


def _judge(
    name: str, cases: Sequence[CaseResult], limits: Limits, noise: Noise | None
) -> DataSetResult:
    outputs = _totals(case.outputs for case in cases)
    merged = {
        output: merge(case.tallies[output] for case in cases if output in case.tallies)
        for output in outputs
    }
    tallies = {output: tally for output, tally in merged.items() if tally is not None}
    bounds = _Bounds(limits, noise, max((t.decisions for t in tallies.values()), default=0))
    near = {
        name: bounds.near_tie(name, tally.rms_error, outputs[name].scale)
        for name, tally in tallies.items()
    }
    answers = [case.answers for case in cases if case.answers is not None]
    found = DataSetResult(
        name=name,
        inputs=sum(case.shape[0] for case in cases),
        layer_inputs=sum(case.shape[0] for case in cases if case.layers),
        outputs=outputs,
        layers=_totals(case.layers for case in cases),
        tallies={output: tally.settled(*near[output]) for output, tally in tallies.items()},
        answers=reduce(operator.add, answers) if answers else None,
        problems=tuple(f"{name}, {case.name!r}: {case.problem}" for case in cases if case.problem),
    )
    # What is a near tie follows from all batches together, and holds for each.
    settled = [
        replace(case, tallies={o: tally.settled(*near[o]) for o, tally in case.tallies.items()})
        for case in cases
    ]
    return replace(found, checks=tuple(_checks(found, settled, bounds)))


def _totals(parts: Iterable[Mapping[str, Figures]]) -> dict[str, Figures]:
    totals: dict[str, Figures] = {}
    for part in parts:
        for name, found in part.items():
            totals[name] = add(totals[name], found) if name in totals else found
    return totals


def _checks(found: DataSetResult, cases: Sequence[CaseResult], bounds: _Bounds) -> Iterator[Check]:
    limits = bounds.limits.limits
    for output in found.outputs:
        for limit in limits:
            level = limit.metric.levels[0]
            if level in (Level.OUTPUT, Level.DECISION):
                yield _check(found, cases, bounds.of(limit, level, output), level, output)
    if found.answers is not None:
        yield from _answer_checks(found.answers, found, cases, bounds)
    before: str | None = None
    for layer in found.layers:
        for limit in limits:
            if Level.LAYER in limit.metric.levels:
                wanted = bounds.of(limit, Level.LAYER, layer)
                yield _check(found, cases, wanted, Level.LAYER, layer, before)
        before = layer


def _answer_checks(
    answers: Answers, found: DataSetResult, cases: Sequence[CaseResult], bounds: _Bounds
) -> Iterator[Check]:
    ties = [tally.tie for tally in found.tallies.values()]
    ties = ties or [bounds.near_tie(n, f.rms_abs, f.scale)[0] for n, f in found.outputs.items()]
    tie = max(ties)
    values = answers.scores(tie)
    by_case = [(case, case.answers.scores(tie)) for case in cases if case.answers is not None]
    for given in bounds.limits.limits:
        name = given.metric.value
        if name not in values:
            continue
        limit = bounds.of(given, Level.TASK, answers.subject)
        shown = [(value, case) for case, item in by_case if (value := item[name]) is not None]
        choose = min if limit.metric in HIGHER_IS_BETTER else max
        worst = choose(shown, key=lambda item: item[0])[1].name if shown else ""
        yield Check(found.name, Level.TASK, answers.subject, limit, values[name], worst, None)


def _check(
    found: DataSetResult,
    cases: Sequence[CaseResult],
    limit: Limit,
    level: Level,
    subject: str,
    before: str | None = None,
) -> Check:
    """One limit on one output or layer: the value over all batches, and the batch that is worst."""
    value = _value(limit.metric, level, subject, before, found)
    if limit.metric is Metric.NON_FINITE:
        figures = (found.layers if level is Level.LAYER else found.outputs)[subject]
        value = figures.non_finite + figures.scale.non_finite
    sign = -1.0 if limit.metric in HIGHER_IS_BETTER else 1.0
    ranked = [
        (sign * shown, case)
        for case in cases
        if (shown := _value(limit.metric, level, subject, before, case)) is not None
    ]
    if not ranked and value is not None:  # too few rows in each: the batch that errs most
        ranked = [(c.outputs[subject].rms_abs, c) for c in cases if subject in c.outputs]
    if not ranked:
        return Check(found.name, level, subject, limit, value, "", None)
    worst = max(ranked, key=lambda item: item[0])[1]
    text = worst.worst_texts.get(subject)
    if limit.metric in TALLY_METRICS and worst.tallies[subject].flips:
        text = worst.tallies[subject].flips[0].text
    return Check(found.name, level, subject, limit, value, worst.name, text)


def _value(
    metric: Metric, level: Level, subject: str, before: str | None, part: CaseResult | DataSetResult
) -> float | None:
    """A metric of an output or layer in one batch or all; None where there is nothing to measure.

    What a layer adds is its rms error less twice that of the layer before, not below 0: a sound
    layer passes an error on with little change, LayerNorm sees to that; one that is wrong makes a
    new one. The embeddings have nothing before them.
    """
    if metric in TALLY_METRICS:
        tally = part.tallies.get(subject)
        shift: float | None = getattr(tally, metric.value, None)
        # Confidence and calibration may move neither way; of accuracy only a loss counts.
        return shift if shift is None or metric is Metric.ACCURACY_DROP else abs(shift)
    figures = (part.layers if level is Level.LAYER else part.outputs).get(subject)
    if figures is None:
        return None
    if metric is Metric.LAYER_ADDED_RELATIVE:
        given = 0.0 if before is None else part.layers[before].rms_relative
        return max(0.0, figures.rms_relative - 2.0 * given)
    value: float | None = getattr(figures, metric.value.removeprefix("layer_"))
    return value
