"""What the reports for people have in common: which lines they show, and how numbers look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exporter.parity.limits import HIGHER_IS_BETTER
from exporter.parity.result import Check, Level, ParityResult, excess


@dataclass(frozen=True)
class Line:
    """The check that is nearest its limit, or furthest outside, of those it stands for.

    Attributes:
        subject: an output, or "layers" with the layer that is worst.
        check: the worst.
        passed: whether all of them pass.
    """

    subject: str
    check: Check
    passed: bool


def summary(result: ParityResult) -> list[Line]:
    """A line for each output and metric, and for the layers and each of their metrics.

    Each stands for all data sets; what has nothing to measure, such as decisions of a model without
    a head, is left out.
    """
    groups: dict[tuple[bool, str, str], list[Check]] = {}
    for check in result.checks:
        if check.value is None:
            continue
        layer = check.level is Level.LAYER
        subject = "layers" if layer else check.subject
        groups.setdefault((layer, subject, check.limit.metric.value), []).append(check)
    lines = []
    for (layer, subject, _), checks in sorted(groups.items(), key=lambda item: item[0][0]):
        worst = max(checks, key=excess)
        name = f"{subject} (worst: {worst.subject})" if layer else subject
        lines.append(Line(name, worst, all(check.passed for check in checks)))
    return lines


def number(value: float) -> str:
    """Three digits; what is nearly 1 with as many as tell it from 1."""
    return f"{value:.9f}" if 0.999 < value < 1 else f"{value:.3g}"


def permitted(check: Check) -> str:
    """A limit as a condition, such as `<= 0.01`."""
    relation = ">=" if check.limit.metric in HIGHER_IS_BETTER else "<="
    return f"{relation} {check.limit.bound:g}"


def compared(result: ParityResult) -> str:
    """One line on what was compared with what."""
    inputs = sum(item.inputs for item in result.data_sets)
    names = f"{result.candidate.runtime} against {result.reference.runtime}"
    return (
        f"{names}: {inputs} inputs in {len(result.cases)} batches, "
        f"limits of {result.limits.precision}{_changed(result)}"
    )


def _changed(result: ParityResult) -> str:
    origins = dict.fromkeys(limit.origin for limit in result.limits.limits)
    others: Sequence[str] = [name for name in origins if name != "built in"]
    return f", some from {' and '.join(others)}" if others else ""


def layer_line(result: ParityResult) -> str:
    """One line on the layers: how many were compared, or why none."""
    if not result.layers.names:
        return f"layers: not available ({result.layers.reason})"
    inputs = sum(item.layer_inputs for item in result.data_sets)
    return f"layers: {len(result.layers.names) - 1} and the embeddings, on {inputs} inputs"


def percent(value: float | None) -> str:
    """A share as percent."""
    return "" if value is None else f"{100 * value:.2f} %"
