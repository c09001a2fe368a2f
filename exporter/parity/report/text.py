"""A parity result in words: the table on the terminal, Markdown, and what all reports share."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from exporter.console import aligned, one_line
from exporter.metrics.tally import Flip, Tally
from exporter.model.model_shape import ModelShape
from exporter.parity.limits import BUILT_IN, HIGHER_IS_BETTER, Level
from exporter.parity.result import EXPORT, Check, DataSetResult, ParityResult, excess

_TERMINAL_FLIPS = 5
_MARKDOWN_FAILURES = 20
_MARKDOWN_FLIPS = 10
_MARKDOWN_TEXT = 120
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~#@!])")


@dataclass(frozen=True)
class Line:
    """The check that is nearest its limit, or furthest outside, of those it stands for.

    `subject` is an output, or "layers" with the worst one; `passed`, whether all of them pass.
    """

    subject: str
    check: Check
    passed: bool

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """Subject, metric, value and what is permitted."""
        value = number(self.check.value or 0.0)
        return self.subject, self.check.limit.metric.value, value, permitted(self.check)


def summary(result: ParityResult) -> list[Line]:
    """A line for each output and metric, and for the layers and each of their metrics.

    Each stands for all data sets; what has nothing to measure, such as decisions of a model without
    a head, is left out.
    """
    groups: dict[tuple[bool, str, str], list[Check]] = {}
    for check in (check for check in result.checks if check.value is not None):
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


def percent(value: float | None) -> str:
    """A share as percent."""
    return "" if value is None else f"{100 * value:.2f} %"


def permitted(check: Check) -> str:
    """A limit as a condition, such as `<= 0.01`."""
    relation = ">=" if check.limit.metric in HIGHER_IS_BETTER else "<="
    return f"{relation} {check.limit.bound:g}"


def compared(result: ParityResult) -> str:
    """One line on what was compared with what."""
    inputs = sum(item.inputs for item in result.data_sets)
    names = f"{result.candidate.runtime} against {result.reference.runtime}"
    origins = dict.fromkeys(limit.origin for limit in result.limits.limits)
    others = " and ".join(name for name in origins if name != BUILT_IN)
    changed = f", some from {others}" if others else ""
    return (
        f"{names}: {inputs} inputs in {len(result.cases)} batches, "
        f"limits of {result.limits.precision}{changed}"
    )


def layer_line(result: ParityResult) -> str:
    """One line on the layers: how many were compared, or why none."""
    if not result.layers.names:
        return f"layers: not available ({result.layers.reason})"
    inputs = sum(item.layer_inputs for item in result.data_sets)
    return f"layers: {len(result.layers.names) - 1} and the embeddings, on {inputs} inputs"


def stage_line(result: ParityResult) -> str:
    """One line on the stages: how many keep to the plan, and the one furthest from it."""
    if not result.stages:
        return "stages: not judged (no plan, or no checkpoint to apply it to)"
    kept = [stage for stage in result.stages if not stage.failure]
    worst = max(result.stages, key=lambda stage: stage.rms / stage.limit)
    return (
        f"stages: {len(kept)} of {len(result.stages)} keep to the plan, on "
        f"{max(stage.tokens for stage in result.stages)} tokens; "
        f"furthest {worst.name}, {number(worst.rms)} of {worst.limit:g}"
    )


def also_judged(result: ParityResult) -> list[str]:
    """A line for the export in fp32 and for each engine, judged or not."""
    lines = [] if result.export is None else [f"{EXPORT}: {_verdict(result.export)}"]
    for engine in result.engines:
        verdict = engine.parity if engine.result is None else _verdict(engine.result)
        lines.append(f"engine {engine.file}: {verdict}")
    return lines


def _verdict(result: ParityResult) -> str:
    """A verdict, what gave it, and the figure that is nearest its limit or furthest outside."""
    parts = ["pass" if result else "FAIL", result.candidate.runtime, *result.notes]
    lines = summary(result)
    if lines:
        parts.append(" ".join(max(lines, key=lambda line: excess(line.check)).cells))
    return ", ".join(parts)


def choice_name(shape: ModelShape, index: int, column: int = -1) -> str:
    """How a decision is called: by its label where the model has one for it."""
    named = shape.task.value.endswith("-classification")
    labels = {key: one_line(label) for key, label in shape.id2label.items()} if named else {}
    if column >= 0:
        return f"{labels.get(column, str(column))}: {'yes' if index else 'no'}"
    return labels.get(index, str(index))


def flip_cells(result: ParityResult, data_set: str, flip: Flip) -> tuple[str, ...]:
    """A changed decision: text or else its place, token, both choices with their probabilities,
    label, a near tie or not."""
    choices = ((flip.reference, flip.reference_score), (flip.candidate, flip.candidate_score))
    return (
        flip.text or f"{data_set}{flip.case}, example {flip.example}",
        f"token {flip.token}" if flip.token >= 0 else "",
        *(f"{choice_name(result.shape, i, flip.column)} {score:.3f}" for i, score in choices),
        "" if flip.label is None else choice_name(result.shape, flip.label),
        "near tie" if flip.tied else "",
    )


def all_flips(result: ParityResult) -> list[tuple[str, ...]]:
    """The cells of all flipped decisions that were kept."""
    return [
        flip_cells(result, f"{item.name}, ", flip)
        for item in result.data_sets
        for tally in item.tallies.values()
        for flip in tally.flips
    ]


def verdicts(tally: Tally) -> str:
    """How many decisions have which verdict, such as `31 equal, 1 of 3 near ties flipped`."""
    near = f"{tally.tied} of {tally.near_ties} near ties flipped"
    return f"{tally.equal} equal, {near}, {tally.flipped} flipped"


def decision_cells(item: DataSetResult, name: str) -> tuple[str, ...]:
    """The decisions of an output: data set, output, number, verdicts, mean KL, accuracy,
    calibration error (both empty without labels), mean confidence."""
    tally, figures = item.tallies[name], item.outputs[name]
    before, after, count = tally.reference_bins, tally.candidate_bins, max(1, tally.decisions)
    accuracy = error = ""
    if before.accuracy is not None:
        accuracy = f"{percent(before.accuracy)} → {percent(after.accuracy)}"
        error = f"{before.error or 0:.4f} → {after.error or 0:.4f}"
    first, second = tally.reference_confidence / count, tally.candidate_confidence / count
    place, kl = (item.name, name, str(tally.decisions)), f"{figures.mean_kl or 0.0:.2g}"
    return (*place, verdicts(tally), kl, accuracy, error, f"{first:.4f} → {second:.4f}")


def to_table(result: ParityResult) -> str:
    """A table of every output and metric, lines on what was compared, and the verdict."""
    rows = [("output", "metric", "value", "permitted", "")]
    rows += [(*line.cells, "ok" if line.passed else "FAIL") for line in summary(result)]
    lines = [*aligned(rows), compared(result), layer_line(result), stage_line(result)]
    lines += [*also_judged(result), *_decisions(result)]
    lines += [f"note: {note}" for note in result.notes]
    lines += [f"FAIL {line}" for line in result.failures]
    return "\n".join((*lines, "parity: pass" if result else "parity: FAIL"))


def _decisions(result: ParityResult) -> Iterator[str]:
    """The verdicts, accuracy where the data has labels, and the decisions that changed."""
    for item in result.data_sets:
        for name, tally in item.tallies.items():
            yield f"{item.name}, {name}: {tally.decisions} decisions, {verdicts(tally)}"
            if tally.labelled:
                before, after = tally.reference_bins, tally.candidate_bins
                yield (
                    f"{item.name}, {name}: accuracy {percent(before.accuracy)} to "
                    f"{percent(after.accuracy)}, calibration error {before.error or 0:.4f} to "
                    f"{after.error or 0:.4f}, {tally.labelled} labelled"
                )
            for flip in tally.flips[:_TERMINAL_FLIPS]:
                where, token, first, second, _, tied = flip_cells(result, "", flip)
                where = where[:60] if flip.text else where
                token, tied = token and f", {token}", tied and f" ({tied})"
                yield f"flipped{tied}: {first} to {second}: {where!r}{token}"
            left = tally.decisions - tally.equal
            if left > _TERMINAL_FLIPS:
                yield f"and {left - _TERMINAL_FLIPS} more of {name} in {item.name}"


def to_markdown(result: ParityResult) -> str:
    """The result for a comment on a pull request, as GitHub renders it; texts are escaped."""
    return "\n".join(_markdown(result)) + "\n"


def _markdown(result: ParityResult) -> Iterator[str]:
    yield f"## Parity: {'pass' if result else '**FAIL**'}\n"
    yield f"`{_code(result.candidate.name)}` against `{_code(result.reference.name)}`  "
    yield f"{_escape(compared(result))}  "
    more = (layer_line(result), stage_line(result), *also_judged(result))
    yield "  \n".join(map(_escape, more)) + "\n"
    if not result:
        yield from _markdown_failures(result)
    lines = summary(result)
    if lines:
        yield "| output | metric | value | permitted |  |\n|---|---|---:|---:|---|"
    for line in lines:
        subject, metric, value, bound = line.cells
        mark = "ok" if line.passed else "**FAIL**"
        yield _row(_escape(subject), f"`{metric}`", value, _escape(bound), mark)
    if any(item.tallies for item in result.data_sets):
        yield from _markdown_decisions(result)
    yield from (f"\nNote: {_escape(note)}" for note in result.notes)


def _markdown_failures(result: ParityResult) -> Iterator[str]:
    fault = result.first_fault
    if fault is not None:
        text = f", worst text: {_escape(_short(fault.text))}" if fault.text else ""
        yield f"**First layer outside its limits: {fault.subject}**{text}\n"
    yield from (f"- {_escape(line)}" for line in result.failures[:_MARKDOWN_FAILURES])
    if len(result.failures) > _MARKDOWN_FAILURES:
        yield f"- and {len(result.failures) - _MARKDOWN_FAILURES} more"
    yield ""


def _markdown_decisions(result: ParityResult) -> Iterator[str]:
    yield "\n| data set | output | decisions | verdicts | accuracy | ECE | confidence |"
    yield "|---|---|---:|---|---:|---:|---:|"
    for item in result.data_sets:
        for name in item.tallies:
            data_set, output, count, verdict, _, *rest = decision_cells(item, name)
            yield _row(_escape(data_set), _escape(output), count, verdict, *rest)
    flips = all_flips(result)
    if flips:
        changed = sum(tally.decisions - tally.equal for tally in result.tallies)
        yield f"\n<details><summary>{changed} changed decisions</summary>\n"
        yield "| text | reference | candidate | label |  |\n|---|---|---|---|---|"
        for where, token, *rest in flips[:_MARKDOWN_FLIPS]:
            yield _row(_escape(_short(where)) + (token and f" ({token})"), *map(_escape, rest))
        yield "\n</details>"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _short(text: str) -> str:
    return text if len(text) <= _MARKDOWN_TEXT else text[: _MARKDOWN_TEXT - 1] + "…"


def _escape(text: str) -> str:
    """Nothing in the text is markup, a mention or a new cell."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    return text.replace("`", "'").replace("|", "/")
