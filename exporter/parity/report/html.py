"""A parity result as one HTML page without scripts, and without anything from the network."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from importlib.resources import files
from statistics import median

from exporter.environment import tool_name
from exporter.parity.limits import Metric
from exporter.parity.report.charts import (
    decision_plot,
    latency_plot,
    layer_plot,
    spread_plot,
    value_plot,
)
from exporter.parity.report.json import choice_name
from exporter.parity.report.rows import (
    Line,
    compared,
    layer_line,
    number,
    percent,
    permitted,
    summary,
)
from exporter.parity.result import FIRST_LAYER, ParityResult, SideInfo, excess

# Nothing but what is in the file may be used, whatever a text of the data contains.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_FLIPS = 25
_FAILURES = 8


def to_html(result: ParityResult) -> str:
    """The result as a page that is whole in one file; light and dark follow the reader's system."""
    style = files("exporter.parity.report").joinpath("report.css").read_text(encoding="utf-8")
    verdict = "pass" if result else "FAIL"
    return "".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            '<meta name="color-scheme" content="light dark">\n',
            '<link rel="icon" href="data:,">\n',
            f"<title>Parity: {verdict}: {escape(result.candidate.name)}</title>\n",
            f"<style>\n{style}</style>\n</head>\n<body>\n<main>\n",
            *_body(result),
            "</main>\n</body>\n</html>\n",
        )
    )


def _body(result: ParityResult) -> Iterator[str]:
    yield from _head(result)
    if not result:
        yield from _failures(result)
    lines = summary(result)
    if lines:
        yield from _tiles(result, lines)
        yield '<div class="plots">\n'
        yield from _plots(result)
        yield "</div>\n"
        yield from _flips(result)
        yield from _decisions(result)
        yield from _limits(lines)
    yield from _facts(result)


def _head(result: ParityResult) -> Iterator[str]:
    state = ("good", "within limits") if result else ("bad", "outside limits")
    yield f'<header><p class="verdict {state[0]}">{"PASS" if result else "FAIL"}</p><div>\n'
    yield f"<h1>{escape(result.candidate.name)}</h1>\n"
    yield f"<p>{state[1]}, against <b>{escape(result.reference.name)}</b></p>\n"
    yield f'<p class="muted">{escape(compared(result))}. {escape(layer_line(result))}.</p>\n'
    yield "</div></header>\n"
    for note in result.notes:
        yield f'<p class="note">{escape(note)}</p>\n'


def _failures(result: ParityResult) -> Iterator[str]:
    yield '<section class="failures">\n<h2>What fails</h2>\n'
    fault = result.first_fault
    if fault is not None:
        check = fault.check
        yield f"<p>The first layer outside its limits is <b>{escape(fault.layer)}</b>: "
        yield f"{escape(check.limit.metric.value)} {number(check.value or 0.0)}, "
        yield f"permitted {escape(permitted(check))}.</p>\n"
        if check.text:
            yield f"<blockquote>{escape(check.text[:400])}</blockquote>\n"
    rest = [line for line in result.failures if not line.startswith(FIRST_LAYER)]
    yield "<ul>\n"
    for line in rest[:_FAILURES]:
        yield f"<li>{escape(line)}</li>\n"
    if len(rest) > _FAILURES:
        yield f"<li>and {len(rest) - _FAILURES} more, all of them in parity.json</li>\n"
    yield "</ul>\n</section>\n"


def _tiles(result: ParityResult, lines: list[Line]) -> Iterator[str]:
    """The four figures to look at first."""
    yield '<section class="tiles">\n'
    nearest = max(lines, key=lambda line: excess(line.check))
    failed = sum(not line.passed for line in lines)
    name = f"{nearest.subject}, {nearest.check.limit.metric.value}"
    if failed:
        yield _tile("limits are not held", f"{failed} of {len(lines)}", f"worst: {name}", False)
    else:
        used = f"{100 * excess(nearest.check):.3g} %"
        yield _tile("of a limit is used, at the worst", used, name, True)
    decided = [(s.outputs[n], t) for s in result.data_sets for n, t in s.tallies.items()]
    if decided:
        count = sum(figures.decisions for figures, _ in decided)
        flipped = sum(figures.decisions - figures.agreed for figures, _ in decided)
        tied = sum(figures.tied for figures, _ in decided)
        note = f"{flipped} flipped, {tied} of them tied" if flipped else "none flipped"
        good = all(line.passed for line in lines if line.check.limit.metric is Metric.AGREEMENT)
        yield _tile("of the decisions agree", percent(1 - flipped / max(1, count)), note, good)
    labelled = [t for _, t in decided if t.labelled]
    if labelled:
        before, after = labelled[0].reference_bins.accuracy, labelled[0].candidate_bins.accuracy
        good = all(line.passed for line in lines if line.check.limit.metric is Metric.ACCURACY_DROP)
        yield _tile("accuracy of the candidate", percent(after), f"{percent(before)} before", good)
    speed = _speed(result)
    if speed is not None:
        yield _tile("time per batch, reference / candidate", *speed, True)
    yield "</section>\n"


def _tile(title: str, value: str, note: str, good: bool) -> str:
    state = "" if good else " bad"
    return (
        f'<div class="tile{state}"><b>{escape(value)}</b><span>{escape(title)}</span>'
        f"<small>{escape(note)}</small></div>\n"
    )


def _speed(result: ParityResult) -> tuple[str, str] | None:
    ratios = [
        case.seconds["reference"] / case.seconds["candidate"]
        for case in result.cases
        if case.seconds["candidate"] > 0 and case.seconds["reference"] > 0
    ]
    if not ratios:
        return None
    totals = (result.seconds["reference"], result.seconds["candidate"])
    kept = f", {result.cached} batches from the cache" if result.cached else ""
    return f"{median(ratios):.2f}", f"median; {totals[0]:.2f} s and {totals[1]:.2f} s in all{kept}"


def _plots(result: ParityResult) -> Iterator[str]:
    bounds = {limit.metric: limit.bound for limit in result.limits.limits}
    drawn = layer_plot(result)
    if drawn is not None:
        text = "Hidden states, the worst of all data sets. Red is outside its limit."
        yield _figure("Error by layer", text, drawn, _key(("largest", "largest"), ("rms", "rms")))
    for name, errors in result.errors.items():
        text = f"Of a sample of the elements; {errors.exact} without any error are not shown."
        drawn = spread_plot(name, errors, bounds.get(Metric.MAX_RELATIVE))
        yield _figure(f"Errors of {name}", text, drawn)
        tallies = [item.tallies[name] for item in result.data_sets if name in item.tallies]
        if tallies:
            key = _key(("point", "same decision"), ("bad", "flipped"), ("tied", "tied"))
            text = "On the line, both give the reference's choice the same probability."
            yield _figure(f"Decisions of {name}", text, decision_plot(name, tallies, result), key)
        else:
            yield _figure(f"Values of {name}", "Of a sample.", value_plot(name, errors))
    drawn = latency_plot(result)
    if drawn is not None:
        sides = (("reference", result.reference), ("candidate", result.candidate))
        key = _key(*((role, f"{role}: {side.runtime}") for role, side in sides))
        text = "Each batch once, on the machine below: a look, not a benchmark."
        yield _figure("Latency", text, drawn, key)


def _figure(title: str, text: str, drawing: str, key: str = "") -> str:
    return (
        f"<figure><figcaption><h2>{escape(title)}</h2><p>{escape(text)}</p>{key}</figcaption>\n"
        f"{drawing}</figure>\n"
    )


def _key(*entries: tuple[str, str]) -> str:
    names = "".join(
        f'<span><i class="swatch {kind}"></i>{escape(name)}</span>' for kind, name in entries
    )
    return f'<p class="key">{names}</p>'


def _flips(result: ParityResult) -> Iterator[str]:
    found = [
        (item.name, flip)
        for item in result.data_sets
        for tally in item.tallies.values()
        for flip in tally.flips
    ]
    if not found:
        return
    yield '<section><h2>Flipped decisions</h2>\n<div class="wide"><table>\n<thead><tr>'
    yield "<th>text</th><th>reference</th><th>candidate</th><th>label</th><th></th></tr></thead>\n"
    for data_set, flip in found[:_FLIPS]:
        first = choice_name(result.shape, flip.reference, flip.column)
        second = choice_name(result.shape, flip.candidate, flip.column)
        where = flip.text[:300] if flip.text else f"{data_set}, {flip.case}, example {flip.example}"
        token = f' <span class="muted">token {flip.token}</span>' if flip.token >= 0 else ""
        label = "" if flip.label is None else choice_name(result.shape, flip.label)
        yield f"<tr><td>{escape(where)}{token}</td>"
        yield f"<td>{escape(first)} <b>{flip.reference_score:.3f}</b></td>"
        yield f"<td>{escape(second)} <b>{flip.candidate_score:.3f}</b></td>"
        yield f"<td>{escape(label)}</td><td>{'tied' if flip.tied else ''}</td></tr>\n"
    yield "</table></div>\n"
    if len(found) > _FLIPS:
        yield f'<p class="muted">{len(found) - _FLIPS} more are in parity.json.</p>\n'
    yield "</section>\n"


def _decisions(result: ParityResult) -> Iterator[str]:
    rows = [(item, name, t) for item in result.data_sets for name, t in item.tallies.items()]
    if not rows:
        return
    yield '<section><h2>Decisions by data set</h2>\n<div class="wide"><table>\n<thead><tr>'
    for title in ("data set", "output", "decisions", "agreement", "mean KL, nats", "accuracy"):
        yield f"<th>{title}</th>"
    yield "<th>calibration error</th><th>mean confidence</th></tr></thead>\n"
    for item, name, tally in rows:
        figures, count = item.outputs[name], max(1, tally.decisions)
        before, after = tally.reference_bins, tally.candidate_bins
        accuracy = error = "no labels"
        if before.accuracy is not None:
            accuracy = f"{percent(before.accuracy)} → {percent(after.accuracy)}"
            error = f"{before.error or 0:.4f} → {after.error or 0:.4f}"
        yield f"<tr><td>{escape(item.name)}</td><td>{escape(name)}</td><td>{tally.decisions}</td>"
        yield f"<td>{percent(figures.agreement)}</td><td>{figures.mean_kl or 0.0:.2g}</td>"
        yield f"<td>{accuracy}</td><td>{error}</td>"
        yield f"<td>{tally.reference_confidence / count:.4f} → "
        yield f"{tally.candidate_confidence / count:.4f}</td></tr>\n"
    yield "</table></div></section>\n"


def _limits(lines: list[Line]) -> Iterator[str]:
    yield '<section><h2>Limits</h2>\n<div class="wide"><table>\n<thead><tr>'
    for title in ("output", "metric", "value", "permitted", "of the limit", "", "reason"):
        yield f"<th>{title}</th>"
    yield "</tr></thead>\n"
    for line in lines:
        check = line.check
        share = excess(check)
        state = "good" if line.passed else "bad"
        width = 100 * min(1.0, share)
        origin = "" if check.limit.origin == "built in" else f" ({check.limit.origin})"
        yield f"<tr><td>{escape(line.subject)}</td><td>{escape(check.limit.metric.value)}</td>"
        yield f"<td>{number(check.value or 0.0)}</td>"
        yield f'<td class="whole">{escape(permitted(check))}</td>'
        yield f'<td><span class="gauge {state}"><i style="width:{width:.1f}%"></i></span></td>'
        yield f'<td class="{state}">{"ok" if line.passed else "FAIL"}</td>'
        yield f'<td class="muted reason">{escape(check.limit.reason + origin)}</td></tr>\n'
    yield "</table></div></section>\n"


def _facts(result: ParityResult) -> Iterator[str]:
    yield '<section><h2>What was compared</h2>\n<div class="facts">\n'
    for role, side in (("Reference", result.reference), ("Candidate", result.candidate)):
        yield from _side(role, side)
    yield "<div><h3>Environment</h3><dl>\n"
    for name, value in {"tool": tool_name(), **result.environment}.items():
        yield f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>\n"
    yield "</dl></div>\n</div></section>\n"


def _side(role: str, side: SideInfo) -> Iterator[str]:
    yield f"<div><h3>{role}: {escape(side.kind)}, {escape(side.precision)}</h3>\n"
    yield f"<p>{escape(side.name)}, run by {escape(side.runtime)}</p>\n"
    for note in side.notes:
        yield f'<p class="muted">{escape(note)}</p>\n'
    if side.files:
        yield "<dl>\n"
        for item in side.files:
            yield f"<dt>{escape(item.path)}</dt><dd><code>{item.sha256}</code></dd>\n"
        yield "</dl>\n"
    yield "</div>\n"
