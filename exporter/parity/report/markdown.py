"""A parity result as Markdown, short enough for a comment on a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterator

from exporter.parity.report.json import choice_name
from exporter.parity.report.rows import compared, layer_line, number, percent, permitted, summary
from exporter.parity.result import ParityResult

_FAILURES = 20
_FLIPS = 10
_TEXT = 120
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~#@!])")


def to_markdown(result: ParityResult) -> str:
    """The result as GitHub renders it; texts of the data are escaped."""
    return "\n".join(_lines(result)) + "\n"


def _lines(result: ParityResult) -> Iterator[str]:
    yield f"## Parity: {'pass' if result else '**FAIL**'}"
    yield ""
    yield f"`{_code(result.candidate.name)}` against `{_code(result.reference.name)}`  "
    yield f"{_escape(compared(result))}  "
    yield _escape(layer_line(result))
    yield ""
    if not result:
        yield from _failures(result)
    lines = summary(result)
    if lines:
        yield "| output | metric | value | permitted | |"
        yield "|---|---|---:|---:|---|"
    for line in lines:
        check = line.check
        verdict = "ok" if line.passed else "**FAIL**"
        yield (
            f"| {_escape(line.subject)} | `{check.limit.metric.value}` | "
            f"{number(check.value or 0.0)} | {_escape(permitted(check))} | {verdict} |"
        )
    yield from _decisions(result)
    for note in result.notes:
        yield ""
        yield f"Note: {_escape(note)}"


def _failures(result: ParityResult) -> Iterator[str]:
    fault = result.first_fault
    if fault is not None:
        text = f", worst text: {_escape(_short(fault.check.text))}" if fault.check.text else ""
        yield f"**First layer outside its limits: {fault.layer}**{text}"
        yield ""
    for line in result.failures[:_FAILURES]:
        yield f"- {_escape(line)}"
    if len(result.failures) > _FAILURES:
        yield f"- and {len(result.failures) - _FAILURES} more"
    yield ""


def _decisions(result: ParityResult) -> Iterator[str]:
    tallies = [(item, name) for item in result.data_sets for name in item.tallies]
    if not tallies:
        return
    yield ""
    titles = ("data set", "output", "decisions", "agreement", "accuracy", "ECE", "confidence")
    yield f"| {' | '.join(titles)} |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    for item, name in tallies:
        tally, figures = item.tallies[name], item.outputs[name]
        before, after = tally.reference_bins, tally.candidate_bins
        ece = "" if before.error is None else f"{before.error:.4f} → {after.error or 0:.4f}"
        accuracy = ""
        if before.accuracy is not None:
            accuracy = f"{percent(before.accuracy)} → {percent(after.accuracy)}"
        count = max(1, tally.decisions)
        yield (
            f"| {_escape(item.name)} | {_escape(name)} | {tally.decisions} | "
            f"{percent(figures.agreement)} | {accuracy} | {ece} | "
            f"{tally.reference_confidence / count:.4f} → {tally.candidate_confidence / count:.4f} |"
        )
    flips = [(item.name, flip) for item, name in tallies for flip in item.tallies[name].flips]
    if not flips:
        return
    total = sum(i.outputs[n].decisions - i.outputs[n].agreed for i, n in tallies)
    yield ""
    yield f"<details><summary>{total} flipped decisions</summary>"
    yield ""
    yield "| text | reference | candidate | label | |"
    yield "|---|---|---|---|---|"
    for data_set, flip in flips[:_FLIPS]:
        first = choice_name(result.shape, flip.reference, flip.column)
        second = choice_name(result.shape, flip.candidate, flip.column)
        label = "" if flip.label is None else choice_name(result.shape, flip.label)
        where = flip.text or f"{data_set}, {flip.case}, example {flip.example}"
        token = f" (token {flip.token})" if flip.token >= 0 else ""
        yield (
            f"| {_escape(_short(where))}{token} | {_escape(first)} {flip.reference_score:.3f} | "
            f"{_escape(second)} {flip.candidate_score:.3f} | {_escape(label)} | "
            f"{'tied' if flip.tied else ''} |"
        )
    yield ""
    yield "</details>"


def _short(text: str) -> str:
    return text if len(text) <= _TEXT else text[: _TEXT - 1] + "…"


def _escape(text: str) -> str:
    """Text as it is: nothing in it is markup, a mention or a new cell."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    return text.replace("`", "'").replace("|", "/")
