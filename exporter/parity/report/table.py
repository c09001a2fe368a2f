"""A parity result as a table on the terminal."""

from __future__ import annotations

from exporter.console import aligned
from exporter.parity.report.json import choice_name
from exporter.parity.report.rows import compared, layer_line, number, percent, permitted, summary
from exporter.parity.result import ParityResult

_FLIPS = 5


def to_table(result: ParityResult) -> str:
    """A table of every output and metric, lines on what was compared, and the verdict."""
    rows = [("output", "metric", "value", "permitted", "")]
    rows += [
        (
            line.subject,
            line.check.limit.metric.value,
            number(line.check.value or 0.0),
            permitted(line.check),
            "ok" if line.passed else "FAIL",
        )
        for line in summary(result)
    ]
    lines = aligned(rows)
    lines.append(compared(result))
    lines.append(layer_line(result))
    lines.extend(_decisions(result))
    lines.extend(f"note: {note}" for note in result.notes)
    lines.extend(f"FAIL {line}" for line in result.failures)
    lines.append("parity: pass" if result else "parity: FAIL")
    return "\n".join(lines)


def _decisions(result: ParityResult) -> list[str]:
    """Accuracy where the data has labels, and the decisions that flipped."""
    lines = []
    for item in result.data_sets:
        for name, tally in item.tallies.items():
            if tally.labelled:
                before, after = tally.reference_bins, tally.candidate_bins
                lines.append(
                    f"{item.name}, {name}: accuracy {percent(before.accuracy)} to "
                    f"{percent(after.accuracy)}, calibration error {before.error or 0:.4f} to "
                    f"{after.error or 0:.4f}, {tally.labelled} labelled"
                )
            for flip in tally.flips[:_FLIPS]:
                first = choice_name(result.shape, flip.reference, flip.column)
                second = choice_name(result.shape, flip.candidate, flip.column)
                where = flip.text[:60] if flip.text else f"{flip.case}, example {flip.example}"
                token = f", token {flip.token}" if flip.token >= 0 else ""
                lines.append(
                    f"flipped{' (tied)' if flip.tied else ''}: {first} {flip.reference_score:.3f} "
                    f"to {second} {flip.candidate_score:.3f}: {where!r}{token}"
                )
            figures = item.outputs[name]
            left = figures.decisions - figures.agreed
            if left > _FLIPS:
                lines.append(f"and {left - _FLIPS} more of {name} in {item.name}")
    return lines
