"""A parity result as one HTML page without scripts, and without anything from the network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from importlib.resources import files
from statistics import median

from exporter.environment import tool_name
from exporter.parity.limits import BUILT_IN, Metric
from exporter.parity.report.charts import (
    decision_plot,
    latency_plot,
    layer_plot,
    spread_plot,
    timed_batches,
    value_plot,
)
from exporter.parity.report.text import (
    Line,
    all_flips,
    also_judged,
    compared,
    decision_cells,
    layer_line,
    percent,
    stage_line,
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
    lines = (compared(result), layer_line(result), stage_line(result))
    yield f'<p class="muted">{escape(". ".join(lines))}.</p>\n'
    yield "</div></header>\n"
    for note in (*also_judged(result), *result.notes):
        yield f'<p class="note">{escape(note)}</p>\n'


def _failures(result: ParityResult) -> Iterator[str]:
    yield '<section class="failures">\n<h2>What fails</h2>\n'
    fault = result.first_fault
    if fault is not None:
        _, metric, value, bound = Line(fault.subject, fault, passed=False).cells
        yield f"<p>The first layer outside its limits is <b>{escape(fault.subject)}</b>: "
        yield f"{metric} {value}, permitted {escape(bound)}.</p>\n"
        if fault.text:
            yield f"<blockquote>{escape(fault.text[:400])}</blockquote>\n"
    rest = [line for line in result.failures if not line.startswith(FIRST_LAYER)]
    lines = [f"<li>{escape(line)}</li>\n" for line in rest[:_FAILURES]]
    if len(rest) > _FAILURES:
        lines.append(f"<li>and {len(rest) - _FAILURES} more, all of them in parity.json</li>\n")
    yield f"<ul>\n{''.join(lines)}</ul>\n</section>\n"


def _tiles(result: ParityResult, lines: list[Line]) -> Iterator[str]:
    """The four figures to look at first."""

    def good(metric: Metric) -> bool:
        return all(line.passed for line in lines if line.check.limit.metric is metric)

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
        count, flipped = sum(figures.decisions for figures, _ in decided), result.flipped
        tied = sum(figures.tied for figures, _ in decided)
        note = f"{flipped} flipped, {tied} of them tied" if flipped else "none flipped"
        share = percent(1 - flipped / max(1, count))
        yield _tile("of the decisions agree", share, note, good(Metric.AGREEMENT))
    labelled = [tally for _, tally in decided if tally.labelled]
    if labelled:
        before, after = labelled[0].reference_bins.accuracy, labelled[0].candidate_bins.accuracy
        note, within = f"{percent(before)} before", good(Metric.ACCURACY_DROP)
        yield _tile("accuracy of the candidate", percent(after), note, within)
    ratios = [first / second for _, first, second in timed_batches(result)]
    if ratios:
        kept = f", {result.cached} batches from the cache" if result.cached else ""
        first, second = (f"{seconds:.2f} s" for seconds in result.seconds.values())
        note = f"median; {first} and {second} in all{kept}"
        yield _tile("time per batch, reference / candidate", f"{median(ratios):.2f}", note, True)
    yield "</section>\n"


def _tile(title: str, value: str, note: str, good: bool) -> str:
    return (
        f'<div class="tile{"" if good else " bad"}"><b>{escape(value)}</b>'
        f"<span>{escape(title)}</span><small>{escape(note)}</small></div>\n"
    )


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


def _table(title: str, titles: Sequence[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """A section with a table; the cells are HTML."""
    names = "".join(f"<th>{name}</th>" for name in titles)
    yield f'<section><h2>{title}</h2>\n<div class="wide"><table>\n<thead><tr>{names}</tr></thead>\n'
    for row in rows:
        yield f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>\n"
    yield "</table></div>\n"


def _flips(result: ParityResult) -> Iterator[str]:
    found = all_flips(result)
    if not found:
        return
    titles = ("text", "reference", "candidate", "label", "")
    yield from _table("Flipped decisions", titles, map(_flip, found[:_FLIPS]))
    if len(found) > _FLIPS:
        yield f'<p class="muted">{len(found) - _FLIPS} more are in parity.json.</p>\n'
    yield "</section>\n"


def _flip(cells: Sequence[str]) -> Iterator[str]:
    where, token, *choices, label, tied = cells
    yield escape(where[:300]) + (token and f' <span class="muted">{token}</span>')
    for choice in choices:
        name, _, score = choice.rpartition(" ")
        yield f"{escape(name)} <b>{score}</b>"
    yield escape(label)
    yield tied


def _decisions(result: ParityResult) -> Iterator[str]:
    rows = [decision_cells(item, name) for item in result.data_sets for name in item.tallies]
    if rows:
        titles = ["data set", "output", "decisions", "agreement", "mean KL, nats", "accuracy"]
        titles += ["calibration error", "mean confidence"]
        cells = ([escape(cell or "no labels") for cell in row] for row in rows)
        yield from _table("Decisions by data set", titles, cells)
        yield "</section>\n"


def _limits(lines: list[Line]) -> Iterator[str]:
    titles = ("output", "metric", "value", "permitted", "of the limit", "", "reason")
    yield from _table("Limits", titles, map(_limit, lines))
    yield "</section>\n"


def _limit(line: Line) -> Iterator[str]:
    limit, state = line.check.limit, "good" if line.passed else "bad"
    subject, metric, value, bound = map(escape, line.cells)
    yield from (subject, metric, value, f'<span class="whole">{bound}</span>')
    width = 100 * min(1.0, excess(line.check))
    yield f'<span class="gauge {state}"><i style="width:{width:.1f}%"></i></span>'
    yield f'<span class="{state}">{"ok" if line.passed else "FAIL"}</span>'
    origin = "" if limit.origin == BUILT_IN else f" ({limit.origin})"
    yield f'<div class="muted reason">{escape(limit.reason + origin)}</div>'


def _facts(result: ParityResult) -> Iterator[str]:
    yield '<section><h2>What was compared</h2>\n<div class="facts">\n'
    for role, side in (("Reference", result.reference), ("Candidate", result.candidate)):
        yield from _side(role, side)
    facts = {"tool": tool_name(), **result.environment}
    yield "<div><h3>Environment</h3>\n"
    yield _list((name, escape(value)) for name, value in facts.items())
    yield "</div>\n</div></section>\n"


def _side(role: str, side: SideInfo) -> Iterator[str]:
    yield f"<div><h3>{role}: {escape(side.kind)}, {escape(side.precision)}</h3>\n"
    yield f"<p>{escape(side.name)}, run by {escape(side.runtime)}</p>\n"
    for note in side.notes:
        yield f'<p class="muted">{escape(note)}</p>\n'
    if side.files:
        yield _list((item.path, f"<code>{item.sha256}</code>") for item in side.files)
    yield "</div>\n"


def _list(entries: Iterable[tuple[str, str]]) -> str:
    """Names and what they are, the latter as HTML."""
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{value}</dd>\n" for name, value in entries)
    return f"<dl>\n{lines}</dl>\n"
