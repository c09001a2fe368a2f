"""A parity result as the content of parity.json. `docs/parity.md` has the schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from math import isfinite
from typing import Any

from exporter.environment import tool_name
from exporter.metrics.error_spread import Errors
from exporter.metrics.figures import Figures
from exporter.metrics.tally import Flip, Tally
from exporter.parity.limits import HIGHER_IS_BETTER, Limits
from exporter.parity.report.text import choice_name
from exporter.parity.result import CaseResult, Check, DataSetResult, EngineResult, ParityResult

SCHEMA = 3
FORMAT = "deb-export-parity"

_FIGURES = "elements rows non_finite max_abs mean_abs rms_abs max_relative rms_relative"


def to_json(result: ParityResult) -> dict[str, Any]:
    """The content of parity.json. What was not measured is null; so is an infinite ratio."""
    shape, export = result.shape, result.export
    content = {
        "format": FORMAT,
        "schema": SCHEMA,
        "tool": tool_name(),
        "passed": bool(result),
        "reference": asdict(result.reference),
        "model": {
            "task": shape.task.value,
            "layers": shape.num_hidden_layers,
            "hidden_size": shape.hidden_size,
            "vocab_size": shape.vocab_size,
            "labels": {str(index): name for index, name in shape.id2label.items()},
        },
        **_judged(result),
        "stages": [{**asdict(s), "limit": s.limit, "passed": not s.failure} for s in result.stages],
        "export": None if export is None else _judged(export),
        "engines": [engine_json(engine) for engine in result.engines],
        "cases": [_case(case) for case in result.cases],
        "errors": {name: _errors(found) for name, found in result.errors.items()},
        "cached_batches": result.cached,
        "seconds": {name: round(value, 4) for name, value in result.seconds.items()},
        "environment": result.environment,
    }
    plain: dict[str, Any] = _plain(content)
    return plain


def engine_json(engine: EngineResult) -> dict[str, Any]:
    """An engine as it stands in `engines`."""
    judged = {} if engine.result is None else _judged(engine.result)
    status = {"status": engine.parity.status, "reason": engine.reason or None}
    plain: dict[str, Any] = _plain({"file": engine.file, **status, **judged})
    return plain


def _errors(found: Errors) -> dict[str, Any]:
    edges = [round(float(edge), 6) for edge in found.edges]
    return {"log10_edges": edges, "counts": found.counts.tolist(), "exact": found.exact}


def _judged(result: ParityResult) -> dict[str, Any]:
    """What a candidate, its export and its engines have in common: verdict and figures."""
    fault = result.first_fault
    return {
        "passed": bool(result),
        "candidate": asdict(result.candidate),
        "limits": limits_json(result.limits),
        "judged_by": result.judged_by,
        "failures": result.failures,
        "problems": result.problems,
        "notes": result.notes,
        "first_fault": None if fault is None else _check(fault),
        "layers": {"names": result.layers.names, "reason": result.layers.reason or None},
        "checks": [_check(check) for check in result.checks],
        "data_sets": [_data_set(item, result) for item in result.data_sets],
    }


def limits_json(limits: Limits) -> dict[str, Any]:
    """The limits as they stand in parity.json and manifest.json."""
    return {
        "precision": limits.precision,
        "metrics": [
            {
                "metric": limit.metric.value,
                "level": " and ".join(level.value for level in limit.metric.levels),
                "permitted": "at least" if limit.metric in HIGHER_IS_BETTER else "at most",
                **_fields(limit, "bound reason origin"),
            }
            for limit in limits.limits
        ],
    }


def _fields(source: object, names: str) -> dict[str, Any]:
    """Some attributes of an object under their own names."""
    return {name: getattr(source, name) for name in names.split()}


def _plain(value: Any) -> Any:
    """`value` with lists for tuples, and null for NaN and infinity, which JSON has not."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _check(check: Check) -> dict[str, Any]:
    return {
        "data_set": check.data_set,
        "level": check.level.value,
        "subject": check.subject,
        "metric": check.limit.metric.value,
        "value": check.value,
        "bound": check.limit.bound,
        **_fields(check, "passed case text"),
    }


def _data_set(item: DataSetResult, result: ParityResult) -> dict[str, Any]:
    return {
        **_fields(item, "name inputs layer_inputs"),
        "outputs": {name: _figures(total) for name, total in item.outputs.items()},
        "layers": {name: _figures(total) for name, total in item.layers.items()},
        "decisions": {n: _decisions(t, item.outputs[n], result) for n, t in item.tallies.items()},
    }


def _decisions(tally: Tally, figures: Figures, result: ParityResult) -> dict[str, Any]:
    count = tally.decisions or 1
    return {
        **_fields(tally, "decisions equal near_ties tied flipped agreement"),
        "tied_flips": tally.tied_flips,
        "near_tie_margin": tally.tie,
        "expected_flips": tally.expected_flips,
        **_fields(figures, "mean_kl max_kl"),
        "reference_confidence": tally.reference_confidence / count,
        "candidate_confidence": tally.candidate_confidence / count,
        **_fields(tally, "confidence_shift labelled"),
        "reference_accuracy": tally.reference_bins.accuracy,
        "candidate_accuracy": tally.candidate_bins.accuracy,
        "accuracy_drop": tally.accuracy_drop,
        "reference_ece": tally.reference_bins.error,
        "candidate_ece": tally.candidate_bins.error,
        "ece_shift": tally.ece_shift,
        "flips": [_flip(flip, result) for flip in tally.flips],
    }


def _flip(flip: Flip, result: ParityResult) -> dict[str, Any]:
    return {
        "text": flip.text or None,
        **_fields(flip, "case example"),
        "token": _token(flip.token),
        "reference": choice_name(result.shape, flip.reference, flip.column),
        "candidate": choice_name(result.shape, flip.candidate, flip.column),
        "label": None if flip.label is None else choice_name(result.shape, flip.label),
        **_fields(flip, "reference_score candidate_score"),
        "candidate_score_of_reference": flip.common_score,
        **_fields(flip, "margin tied"),
    }


def _case(case: CaseResult) -> dict[str, Any]:
    outputs = {name: _figures(found) for name, found in case.outputs.items()}
    relative = "rms_relative max_relative"
    layers = {name: _fields(found, relative) for name, found in case.layers.items()}
    for name, figures in (*outputs.items(), *layers.items()):
        figures["worst_text"] = case.worst_texts.get(name)
    return {
        **_fields(case, "name data_set shape"),
        "padding": round(case.padding, 6),
        "problem": case.problem,
        "seconds": {name: round(value, 6) for name, value in case.seconds.items()},
        "outputs": outputs,
        "layers": layers,
    }


def _figures(figures: Figures) -> dict[str, Any]:
    worst, place = figures.worst, None
    if worst is not None:
        values = _fields(worst, "reference candidate")
        place = {"example": worst.example, "token": _token(worst.position), **values}
    return {
        **_fields(figures, f"{_FIGURES} spread_relative min_cosine correlation"),
        "reference_max": figures.scale.max,
        "reference_rms": figures.scale.rms,
        "reference_spread": figures.scale.spread,
        "worst": place,
    }


def _token(position: int) -> int | None:
    return position if position >= 0 else None
