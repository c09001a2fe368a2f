"""A parity result as JSON and as a table on the terminal. `docs/parity.md` has the schema."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

from exporter.parity.comparison import ParityResult
from exporter.parity.limits import HIGHER_IS_BETTER, Limits
from exporter.parity.metrics import Figures

SCHEMA = 1
FORMAT = "deb-export-parity"


def to_json(result: ParityResult) -> dict[str, Any]:
    """The content of parity.json. What was not measured is null; so is an infinite ratio."""
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "passed": bool(result),
        "reference": result.reference,
        "candidate": result.candidate,
        "limits": limits_json(result.limits),
        "failures": list(result.failures),
        "checks": [
            {
                "output": check.output,
                "metric": check.limit.metric.value,
                "value": _number(check.value),
                "bound": check.limit.bound,
                "passed": check.passed,
                "case": check.case,
                "text": check.text,
            }
            for check in result.checks
        ],
        "outputs": {name: _figures(total) for name, total in result.totals.items()},
        "cases": [
            {
                "name": case.name,
                "shape": list(case.shape),
                "padding": round(case.padding, 6),
                "problem": case.problem,
                "outputs": {
                    name: {**_figures(figures), "worst_text": case.worst_texts.get(name)}
                    for name, figures in case.outputs.items()
                },
            }
            for case in result.cases
        ],
        "seconds": {name: round(value, 3) for name, value in result.seconds.items()},
    }


def limits_json(limits: Limits) -> dict[str, Any]:
    """The limits as they stand in parity.json and manifest.json."""
    return {
        "precision": limits.precision,
        "metrics": [
            {
                "metric": limit.metric.value,
                "permitted": "at least" if limit.metric in HIGHER_IS_BETTER else "at most",
                "bound": limit.bound,
                "reason": limit.reason,
            }
            for limit in limits.limits
        ],
    }


def to_table(result: ParityResult) -> str:
    """A table of every check, a line on what was compared, and the verdict."""
    rows = [("output", "metric", "value", "permitted", "")]
    for check in result.checks:
        if check.value is None:
            continue  # nothing to measure, such as decisions of a model without a head
        relation = ">=" if check.limit.metric in HIGHER_IS_BETTER else "<="
        value = f"{check.value:.3g}"
        if 0.999 < check.value < 1:
            value = f"{check.value:.9f}"  # 0.99999 must not read as 1
        verdict = "ok" if check.passed else "FAIL"
        permitted = f"{relation} {check.limit.bound:g}"
        rows.append((check.output, check.limit.metric.value, value, permitted, verdict))
    lines = aligned(rows)
    inputs = sum(case.shape[0] for case in result.cases)
    lines.append(
        f"{result.candidate} against {result.reference}: {inputs} inputs in "
        f"{len(result.cases)} batches, limits of {result.limits.precision}"
    )
    lines.extend(f"FAIL {line}" for line in result.failures)
    lines.append("parity: pass" if result else "parity: FAIL")
    return "\n".join(lines)


def _figures(figures: Figures) -> dict[str, Any]:
    worst = figures.worst
    return {
        "elements": figures.elements,
        "rows": figures.rows,
        "non_finite": figures.non_finite,
        "max_abs": figures.max_abs,
        "mean_abs": figures.mean_abs,
        "rms_abs": figures.rms_abs,
        "max_relative": _number(figures.max_relative),
        "rms_relative": _number(figures.rms_relative),
        "spread_relative": _number(figures.spread_relative),
        "min_cosine": figures.min_cosine,
        "decisions": figures.decisions,
        "agreed": figures.agreed,
        "tied": figures.tied,
        "agreement": figures.agreement,
        "mean_kl": figures.mean_kl,
        "max_kl": figures.max_kl if figures.decisions else None,
        "reference_max": figures.scale.max,
        "reference_rms": figures.scale.rms,
        "reference_spread": figures.scale.spread,
        "worst": worst
        and {
            "example": worst.example,
            "token": worst.position if worst.position >= 0 else None,
            "reference": worst.reference,
            "candidate": worst.candidate,
        },
    }


def _number(value: float | None) -> float | None:
    """`value` for JSON, which has no NaN and no infinity."""
    return value if value is not None and isfinite(value) else None


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines with their columns aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
