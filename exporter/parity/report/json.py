"""A parity result as the content of parity.json. `docs/parity.md` has the schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from math import isfinite
from typing import Any

from exporter.environment import tool_name
from exporter.metrics.figures import Figures
from exporter.metrics.tally import Flip, Tally
from exporter.model.model_shape import ModelShape
from exporter.parity.limits import (
    DECISION_METRICS,
    HIGHER_IS_BETTER,
    LAYER_METRICS,
    Limits,
    Metric,
)
from exporter.parity.result import CaseResult, Check, DataSetResult, ParityResult, SideInfo

SCHEMA = 2
FORMAT = "deb-export-parity"


def to_json(result: ParityResult) -> dict[str, Any]:
    """The content of parity.json. What was not measured is null; so is an infinite ratio."""
    fault = result.first_fault
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "tool": tool_name(),
        "passed": bool(result),
        "reference": _side(result.reference),
        "candidate": _side(result.candidate),
        "model": _model(result.shape),
        "limits": limits_json(result.limits),
        "failures": list(result.failures),
        "problems": list(result.problems),
        "notes": list(result.notes),
        "first_fault": None if fault is None else _check(fault.check),
        "layers": {"names": list(result.layers.names), "reason": result.layers.reason or None},
        "checks": [_check(check) for check in result.checks],
        "data_sets": [_data_set(item, result) for item in result.data_sets],
        "cases": [_case(case) for case in result.cases],
        "errors": {
            name: {
                "log10_edges": [round(float(edge), 6) for edge in found.edges],
                "counts": found.counts.tolist(),
                "exact": found.exact,
            }
            for name, found in result.errors.items()
        },
        "cached_batches": result.cached,
        "seconds": {name: round(value, 4) for name, value in result.seconds.items()},
        "environment": dict(result.environment),
    }


def limits_json(limits: Limits) -> dict[str, Any]:
    """The limits as they stand in parity.json and manifest.json."""
    return {
        "precision": limits.precision,
        "metrics": [
            {
                "metric": limit.metric.value,
                "level": level_of(limit.metric),
                "permitted": "at least" if limit.metric in HIGHER_IS_BETTER else "at most",
                "bound": limit.bound,
                "reason": limit.reason,
                "origin": limit.origin,
            }
            for limit in limits.limits
        ],
    }


def level_of(metric: Metric) -> str:
    """What a limit on a metric applies to: "output", "layer", "decision" or "output and layer"."""
    if metric is Metric.NON_FINITE:
        return "output and layer"
    if metric in LAYER_METRICS:
        return "layer"
    return "decision" if metric in DECISION_METRICS else "output"


def choice_name(shape: ModelShape | None, index: int, column: int = -1) -> str:
    """How a decision is called: by its label where the model has one for it."""
    labels: Mapping[int, str] = {} if shape is None else shape.id2label
    classified = shape is not None and shape.task.value.endswith("-classification")
    if column >= 0:
        name = labels.get(column, str(column)) if classified else str(column)
        return f"{name}: {'yes' if index else 'no'}"
    return labels.get(index, str(index)) if classified else str(index)


def _side(side: SideInfo) -> dict[str, Any]:
    return {
        "name": side.name,
        "kind": side.kind,
        "precision": side.precision,
        "runtime": side.runtime,
        "files": [asdict(item) for item in side.files],
        "notes": list(side.notes),
    }


def _model(shape: ModelShape | None) -> dict[str, Any] | None:
    if shape is None:
        return None
    return {
        "task": shape.task.value,
        "layers": shape.num_hidden_layers,
        "hidden_size": shape.hidden_size,
        "vocab_size": shape.vocab_size,
        "labels": {str(index): name for index, name in shape.id2label.items()},
    }


def _check(check: Check) -> dict[str, Any]:
    return {
        "data_set": check.data_set,
        "level": check.level.value,
        "subject": check.subject,
        "metric": check.limit.metric.value,
        "value": _number(check.value),
        "bound": check.limit.bound,
        "passed": check.passed,
        "case": check.case,
        "text": check.text,
    }


def _data_set(item: DataSetResult, result: ParityResult) -> dict[str, Any]:
    return {
        "name": item.name,
        "inputs": item.inputs,
        "layer_inputs": item.layer_inputs,
        "outputs": {name: _figures(total) for name, total in item.outputs.items()},
        "layers": {name: _figures(total) for name, total in item.layers.items()},
        "decisions": {
            name: _decisions(tally, item.outputs[name], result.shape)
            for name, tally in item.tallies.items()
        },
    }


def _decisions(tally: Tally, figures: Figures, shape: ModelShape | None) -> dict[str, Any]:
    count = tally.decisions or 1
    return {
        "decisions": tally.decisions,
        "agreed": figures.agreed,
        "tied": figures.tied,
        "agreement": figures.agreement,
        "mean_kl": figures.mean_kl,
        "max_kl": figures.max_kl,
        "reference_confidence": tally.reference_confidence / count,
        "candidate_confidence": tally.candidate_confidence / count,
        "confidence_shift": tally.confidence_shift,
        "labelled": tally.labelled,
        "reference_accuracy": tally.reference_bins.accuracy,
        "candidate_accuracy": tally.candidate_bins.accuracy,
        "accuracy_drop": tally.accuracy_drop,
        "reference_ece": tally.reference_bins.error,
        "candidate_ece": tally.candidate_bins.error,
        "ece_shift": tally.ece_shift,
        "flips": [_flip(flip, shape) for flip in tally.flips],
    }


def _flip(flip: Flip, shape: ModelShape | None) -> dict[str, Any]:
    return {
        "text": flip.text or None,
        "case": flip.case,
        "example": flip.example,
        "token": flip.token if flip.token >= 0 else None,
        "reference": choice_name(shape, flip.reference, flip.column),
        "candidate": choice_name(shape, flip.candidate, flip.column),
        "label": None if flip.label is None else choice_name(shape, flip.label),
        "reference_score": flip.reference_score,
        "candidate_score": flip.candidate_score,
        "candidate_score_of_reference": flip.common_score,
        "tied": flip.tied,
    }


def _case(case: CaseResult) -> dict[str, Any]:
    return {
        "name": case.name,
        "data_set": case.data_set,
        "shape": list(case.shape),
        "padding": round(case.padding, 6),
        "problem": case.problem,
        "seconds": {name: round(value, 6) for name, value in case.seconds.items()},
        "outputs": {
            name: {**_figures(figures), "worst_text": case.worst_texts.get(name)}
            for name, figures in case.outputs.items()
        },
        "layers": {
            name: {
                "rms_relative": _number(figures.rms_relative),
                "max_relative": _number(figures.max_relative),
                "worst_text": case.worst_texts.get(name),
            }
            for name, figures in case.layers.items()
        },
    }


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
