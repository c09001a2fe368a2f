"""Reference against candidate: run both on the same inputs, measure, judge.

The reference runs over all inputs and is freed before the candidate is loaded, so two models are
never in memory together; its outputs are kept in between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TypeAlias

import numpy as np

from exporter.deberta.tasks import Task
from exporter.parity.inputs import ParityCase
from exporter.parity.limits import HIGHER_IS_BETTER, Limit, Limits, Metric
from exporter.parity.metrics import (
    Bools,
    Decision,
    Figures,
    Floats,
    Rows,
    Scale,
    add,
    measure,
    rows_of,
    scale_of,
)
from exporter.runtime.feeds import ModelShape
from exporter.runtime.predictions import label_kind
from exporter.runtime.session import Session

Progress: TypeAlias = Callable[[str], None]


@dataclass(frozen=True)
class Reference:
    """What the reference gave for every case.

    Attributes:
        name: the runtime that computed it.
        shape: the model.
        outputs: rows at valid positions by output name, one mapping for each case.
        scales: scale of each output over all cases.
        seconds: time of the runs.
    """

    name: str
    shape: ModelShape
    outputs: tuple[Mapping[str, Rows], ...]
    scales: Mapping[str, Scale]
    seconds: float


@dataclass(frozen=True)
class CaseFigures:
    """The figures of one case.

    Attributes:
        name: what is special about the case.
        shape: shape of its inputs.
        padding: share of padded positions.
        outputs: figures by output name; None where the candidate's output has a wrong shape.
        worst_texts: the text with the largest error, by output name, where there is one.
        problem: why the outputs cannot be compared, if they cannot.
    """

    name: str
    shape: tuple[int, ...]
    padding: float
    outputs: Mapping[str, Figures]
    worst_texts: Mapping[str, str]
    problem: str | None = None


@dataclass(frozen=True)
class Check:
    """One limit applied to one output over all cases.

    Attributes:
        output: name of the output.
        limit: what is permitted.
        value: what was measured; the worst single case for a maximum or minimum. None where there
            is nothing to measure, which passes.
        case: the case that shows it worst.
        text: its text with the largest error, if the inputs are texts.
    """

    output: str
    limit: Limit
    value: float | None
    case: str
    text: str | None

    @property
    def passed(self) -> bool:
        """Whether the value is within the limit."""
        return self.value is None or self.limit.holds(self.value)


@dataclass(frozen=True)
class ParityResult:
    """All figures of a comparison and its verdict; true when everything is within the limits.

    Attributes:
        reference: name of the reference.
        candidate: name of the candidate.
        limits: what it was held to.
        totals: figures by output name over all cases.
        cases: figures of each case.
        checks: every limit applied to every output.
        problems: what fails besides the checks: files that changed, outputs of a wrong shape.
        seconds: time of the runs, by `reference` and `candidate`.
    """

    reference: str
    candidate: str
    limits: Limits
    totals: Mapping[str, Figures]
    cases: tuple[CaseFigures, ...]
    checks: tuple[Check, ...]
    problems: tuple[str, ...]
    seconds: Mapping[str, float]

    def __bool__(self) -> bool:
        return not self.problems and all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[str, ...]:
        """A line for each thing that fails."""
        failed = [check for check in self.checks if not check.passed]
        return (*self.problems, *(describe(check) for check in failed))


def describe(check: Check) -> str:
    """One line about a check: output, metric, value, limit, worst case."""
    name = check.limit.metric.value
    relation = "at least" if check.limit.metric in HIGHER_IS_BETTER else "at most"
    value = "none" if check.value is None else f"{check.value:.4g}"
    line = f"{check.output}: {name} {value}, permitted {relation} {check.limit.bound:g}"
    line += f"; worst in case {check.case!r}"
    return line + (f", text {check.text[:60]!r}" if check.text else "")


def run_reference(session: Session, cases: Sequence[ParityCase], progress: Progress) -> Reference:
    """The outputs of `session` for every case, and their scales."""
    outputs: list[Mapping[str, Rows]] = []
    task, seconds = session.shape.task, 0.0
    for index, case in enumerate(cases, 1):
        progress(f"parity: reference, batch {index} of {len(cases)}")
        start = perf_counter()
        given = session.run(**case.feeds)
        seconds += perf_counter() - start
        outputs.append({name: rows_of(task, given[name], _mask(case)) for name in given})
    scales = {name: scale_of(found[name] for found in outputs) for name in session.output_names}
    return Reference(session.name, session.shape, tuple(outputs), scales, seconds)


def compare(
    reference: Reference,
    candidate: Session,
    cases: Sequence[ParityCase],
    limits: Limits,
    progress: Progress,
    problems: Sequence[str] = (),
) -> ParityResult:
    """Run the candidate on the cases and judge it.

    Args:
        reference: outputs for the same cases.
        candidate: has the same outputs.
        cases: the inputs.
        limits: what is permitted.
        progress: told about each batch.
        problems: failures already known; they are part of the verdict.
    """
    figures: list[CaseFigures] = []
    seconds = 0.0
    for index, (case, expected) in enumerate(zip(cases, reference.outputs, strict=True), 1):
        progress(f"parity: artifact, batch {index} of {len(cases)}")
        start = perf_counter()
        actual = candidate.run(**case.feeds)
        seconds += perf_counter() - start
        figures.append(_judge_case(reference, case, expected, actual, limits))
    totals: dict[str, Figures] = {}
    for part in figures:
        for name, found in part.outputs.items():
            totals[name] = add(totals[name], found) if name in totals else found
    checks = [
        _check(name, limit, reference.scales[name], total, figures)
        for name, total in totals.items()
        for limit in limits.limits
    ]
    wrong = [f"case {part.name!r}: {part.problem}" for part in figures if part.problem]
    return ParityResult(
        reference=reference.name,
        candidate=candidate.name,
        limits=limits,
        totals=totals,
        cases=tuple(figures),
        checks=tuple(checks),
        problems=(*problems, *wrong),
        seconds={"reference": reference.seconds, "candidate": seconds},
    )


def decision_of(shape: ModelShape) -> Decision:
    """What a user reads from the outputs of this model."""
    if shape.task is Task.BASE:
        return Decision.NONE
    if shape.task is Task.SEQUENCE_CLASSIFICATION:
        kinds = {"value": Decision.NONE, "sigmoid": Decision.SIGNS, "softmax": Decision.ARGMAX}
        return kinds[label_kind(shape)]
    return Decision.ARGMAX


def _mask(case: ParityCase) -> Bools:
    return np.not_equal(case.feeds["attention_mask"], 0)


def _judge_case(
    reference: Reference,
    case: ParityCase,
    expected: Mapping[str, Rows],
    actual: Mapping[str, Floats],
    limits: Limits,
) -> CaseFigures:
    """The figures of one case; nothing of its arrays is kept."""
    shape, mask = reference.shape.output_shape(case.shape), _mask(case)
    decision = decision_of(reference.shape)
    found: dict[str, Figures] = {}
    texts: dict[str, str] = {}
    problem = None
    for name, rows in expected.items():
        other = actual.get(name)
        if other is None or other.shape != shape:
            found_shape = "missing" if other is None else f"of shape {other.shape}"
            problem = f"output {name} is {found_shape}; the reference has {shape}"
            continue
        scale = reference.scales[name]
        tie = limits.bound(Metric.MAX_RELATIVE) * scale.max
        others = rows_of(reference.shape.task, other, mask)
        found[name] = measure(rows, others, scale, decision, tie)
        worst = found[name].worst
        if worst is not None and worst.example < len(case.texts):
            texts[name] = case.texts[worst.example]
    return CaseFigures(case.name, case.shape, case.padding, found, texts, problem)


_VALUES: Mapping[Metric, Callable[[Figures], float | None]] = {
    Metric.NON_FINITE: lambda figures: figures.non_finite,
    Metric.MAX_RELATIVE: lambda figures: figures.max_relative,
    Metric.RMS_RELATIVE: lambda figures: figures.rms_relative,
    Metric.SPREAD_RELATIVE: lambda figures: figures.spread_relative,
    Metric.MIN_COSINE: lambda figures: figures.min_cosine,
    Metric.AGREEMENT: lambda figures: figures.agreement,
    Metric.MEAN_KL: lambda figures: figures.mean_kl,
}


def _check(
    output: str, limit: Limit, scale: Scale, total: Figures, cases: Sequence[CaseFigures]
) -> Check:
    """One limit on one output: the value over all cases, and the case that shows it worst."""
    read = _VALUES[limit.metric]
    value = read(total)
    if limit.metric is Metric.NON_FINITE:
        value = total.non_finite + scale.non_finite
    sign = -1.0 if limit.metric in HIGHER_IS_BETTER else 1.0
    ranked = [
        (sign * case_value, case)
        for case in cases
        if output in case.outputs and (case_value := read(case.outputs[output])) is not None
    ]
    if not ranked:
        return Check(output, limit, value, "", None)
    worst = max(ranked, key=lambda item: item[0])[1]
    return Check(output, limit, value, worst.name, worst.worst_texts.get(output))
