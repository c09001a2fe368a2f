"""Limits applied to what was measured: the checks of a data set."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce

from exporter.metrics.answers import Answers
from exporter.metrics.decisions import TIE_ERRORS
from exporter.metrics.figures import Figures, add
from exporter.metrics.tally import merge
from exporter.parity.limits import HIGHER_IS_BETTER, TALLY_METRICS, Level, Limit, Limits, Metric
from exporter.parity.result import CaseResult, Check, DataSetResult

_USUAL_SHARE = 0.25
"""Of the permitted rms error; honest builds have less, but for weights larger than trained ones."""


def judge(name: str, cases: Sequence[CaseResult], limits: Limits) -> DataSetResult:
    """The figures of a data set over its batches, and every limit on them."""
    outputs = _totals(case.outputs for case in cases)
    merged = {
        output: merge(case.tallies[output] for case in cases if output in case.tallies)
        for output in outputs
    }
    tallies = {output: tally for output, tally in merged.items() if tally is not None}
    near = {
        name: _near_tie(tally.rms_error, outputs[name], limits) for name, tally in tallies.items()
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
    return replace(found, checks=tuple(_checks(found, settled, limits)))


def _near_tie(error: float, figures: Figures, limits: Limits) -> tuple[float, float]:
    """The margin of a near tie, and the rms error of the logits that rounding explains.

    A candidate that errs more than it may has no more near ties, nor an excuse for their flips.
    """
    permitted = limits.bound(Metric.RMS_RELATIVE) * figures.scale.rms
    return TIE_ERRORS * min(error, permitted), min(error, _USUAL_SHARE * permitted)


def _totals(parts: Iterable[Mapping[str, Figures]]) -> dict[str, Figures]:
    totals: dict[str, Figures] = {}
    for part in parts:
        for name, found in part.items():
            totals[name] = add(totals[name], found) if name in totals else found
    return totals


def _checks(found: DataSetResult, cases: Sequence[CaseResult], limits: Limits) -> Iterator[Check]:
    for output in found.outputs:
        for limit in limits.limits:
            level = limit.metric.levels[0]
            if level in (Level.OUTPUT, Level.DECISION):
                yield _check(found, cases, limit, level, output)
    if found.answers is not None:
        yield from _answer_checks(found.answers, found, cases, limits)
    before: str | None = None
    for layer in found.layers:
        for limit in limits.limits:
            if Level.LAYER in limit.metric.levels:
                yield _check(found, cases, limit, Level.LAYER, layer, before)
        before = layer


def _answer_checks(
    answers: Answers, found: DataSetResult, cases: Sequence[CaseResult], limits: Limits
) -> Iterator[Check]:
    ties = [tally.tie for tally in found.tallies.values()]
    ties = ties or [_near_tie(f.rms_abs, f, limits)[0] for f in found.outputs.values()]
    tie = max(ties)
    values = answers.scores(tie)
    by_case = [(case, case.answers.scores(tie)) for case in cases if case.answers is not None]
    for limit in limits.limits:
        name = limit.metric.value
        if name not in values:
            continue
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
