"""What a quantized build did: its part of the manifest, and the same for a reader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from calibration.table_forms import TableForm
from exporter.console import aligned
from exporter.runtime.providers.onnx_session import EXACT_INTEGERS

if TYPE_CHECKING:
    from calibration.sensitivity import Damage, SensitivityReport
    from exporter.precision.quantized.quantization_input import QuantizationInput
    from exporter.precision.quantized.quantize import QuantizedFile

TABLE_FILE = "calibration.json"
_NO_COST = {"cost": None, "cost_unit": None}


def quantization_facts(
    made: QuantizedFile, given: QuantizationInput, form: TableForm
) -> dict[str, Any]:
    """The quantization in a manifest; docs/manifest.md describes every field.

    `given` has the texts that the build had, `form` is that of tables.
    """
    report = made.report
    can_saturate = report.number.is_integer and report.weight_bits == 8
    facts: dict[str, Any] = {
        "format": report.number.value,
        "scale_table": TABLE_FILE,
        "scale_table_reused": made.reused,
        "data_hash": given.text.batches.data_hash,
        "texts": {
            "source": given.source,
            "given": given.text.given,
            "used": given.text.used,
            "held_back": len(given.text.held_back_texts),
        },
        "method": made.table.method,
        "smoothed_by_folding": list(report.smoothing.folded),
        "smoothed_by_node": list(report.smoothing.multiplied),
        "clipped_columns": report.clipped,
        "corrected_biases": report.corrected,
        "weight_bits": report.weight_bits,
        "weight_bytes_before": report.insertion.float_bytes,
        "weight_bytes": report.insertion.stored_bytes,
        "layers": _layers(made),
        "tables": _tables(made, form),
        "onnxruntime_session": dict(EXACT_INTEGERS) if can_saturate else {},
    }
    if made.sensitivity is not None:
        facts["accuracy_budget"] = _sensitivity_facts(made.sensitivity)
    return facts


def quantization_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """The same as text: a summary, and a table of every linear layer with its choice and cost."""
    layers = facts["layers"]
    number = facts["format"]
    quantized = [layer for layer in layers if layer["choice"] == number]
    before, after = facts["weight_bytes_before"] / 2**20, facts["weight_bytes"] / 2**20
    bits = f", weights of {facts['weight_bits']} bits" if number == "int8" else ""
    yield (
        f"{number}: {len(quantized)} of {len(layers)} linear layers, {after:.1f} MiB in place of "
        f"{before:.1f}, thresholds by {facts['method']}{bits}"
    )
    texts = facts.get("texts")  # an artifact from before they were listed has none
    if texts is not None:
        source = "an earlier table" if facts["scale_table_reused"] else texts["source"]
        yield (
            f"scales from {source}; texts: {texts['used']} of {texts['given']} to calibrate, "
            f"{texts['held_back']} held back"
        )
    # An artifact from before tables were quantized lists none.
    everything = (*layers, *facts.get("tables", ()))
    measured = any(layer["cost"] is not None for layer in everything)
    rows = [("linear layer or table", "choice", "output error", "cost" if measured else "", "")]
    for layer in everything:
        error = "-" if layer["output_error"] is None else f"{layer['output_error']:.1e}"
        cost = "" if layer["cost"] is None else f"{layer['cost']:+.1e}"
        rows.append((layer["name"], layer["choice"], error, cost, layer["reason"] or ""))
    yield from aligned(rows)
    for key, value in facts["onnxruntime_session"].items():
        yield f"ONNX Runtime on x86 without VNNI: set {key} to {value}, as deb-export's sessions do"
    budget = facts.get("accuracy_budget")
    if budget is not None:
        verdict = "within" if budget["within"] else "NOT within"
        yield (
            f"accuracy budget {budget['budget']:g}: {verdict}; {_damage_text(budget['before'])} "
            f"with all selected layers in {number}, {_damage_text(budget['after'])} as built"
        )


def budget_problems(report: SensitivityReport | None) -> tuple[str, ...]:
    """A line where the budget is missed."""
    if report is None or report.within:
        return ()
    after = report.after
    if not after.decisions:
        reached = f"relative error {after.error:.4g}"
    elif after.accuracy_loss is not None:
        reached = f"accuracy {100 * after.accuracy_loss:.2f} points lower"
    else:
        reached = f"{100 * after.disagreement:.2f} % of the decisions differ, KL {after.kl:.3g}"
    return (
        f"accuracy budget {report.budget.share:g} not reached: {reached} on {after.decisions} "
        f"held-back decisions with {len(report.fallback)} linear layers in float, the best found",
    )


def _layers(made: QuantizedFile) -> list[dict[str, Any]]:
    """Every linear layer in order: what was chosen, why, and what is known of its cost."""
    report = made.report
    kept, costs = dict(report.kept), _costs(made)
    return [
        {
            "name": name,
            "choice": report.number.value if name in report.insertion.sites else "float",
            "reason": kept.get(name),
            "smoothing_strength": entry.get("strength"),
            "output_error": entry.get("int8_error"),
            **costs.get(name, _NO_COST),
        }
        for name, entry in made.table.sites.items()
    ]


def _tables(made: QuantizedFile, form: TableForm) -> list[dict[str, Any]]:
    """The same of the tables of embeddings."""
    kept, costs = dict(made.report.kept), _costs(made)
    return [
        {
            "name": name,
            "choice": "float" if error is None else form.value,
            "reason": kept.get(name),
            "output_error": error,
            **costs.get(name, _NO_COST),
        }
        for name, error in made.tables.items()
    ]


def _costs(made: QuantizedFile) -> dict[str, dict[str, Any]]:
    units = () if made.sensitivity is None else made.sensitivity.units
    return {
        name: {"cost": unit.cost, "cost_unit": unit.unit} for unit in units for name in unit.sites
    }


def _sensitivity_facts(report: SensitivityReport) -> dict[str, Any]:
    return {
        "budget": report.budget.share,
        "within": report.within,
        "before": _damage(report.before),
        "after": _damage(report.after),
        "models_run": report.measurements,
        "units": [
            {"name": u.unit, "cost": u.cost, "fallback": u.fallback, "without": _damage(u.without)}
            for u in report.units
        ],
    }


def _damage(damage: Damage) -> dict[str, Any]:
    shares = {"disagreement": damage.disagreement, "accuracy_loss": damage.accuracy_loss}
    return {**asdict(damage), **shares}


def _damage_text(damage: Mapping[str, Any]) -> str:
    if not damage["decisions"]:
        return f"relative error {damage['error']:.2g}"
    text = f"{damage['changed']} of {damage['decisions']} decisions changed"
    if damage["lost"] is not None:
        text += f", {damage['lost']} correct ones lost"
    return f"{text}, KL {damage['kl']:.1e}"
