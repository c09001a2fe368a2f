"""A parity result as one HTML page without scripts, and without anything from the network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from importlib import resources
from statistics import median

from exporter.environment import tool_name
from exporter.parity.limits import BUILT_IN, Metric
from exporter.parity.report import charts, text
from exporter.parity.report.text import Line, decision_cells, percent
from exporter.parity.result import FIRST_LAYER, ParityResult, SideInfo, excess

# Nothing but what is in the file may be used, whatever a text of the data contains.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_FLIPS = 25
_FAILURES = 8


def to_html(result: ParityResult) -> str:
    """The result as a page that is whole in one file; light and dark follow the reader's system."""
    style = resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8")
    title = f"Parity: {'pass' if result else 'FAIL'}: {escape(result.candidate.name)}"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>\n{style}</style>
</head>
<body>
<main>
{"".join(_body(result))}</main>
</body>
</html>
"""


def _body(result: ParityResult) -> Iterator[str]:
    yield from _head(result)
    if not result:
        yield from _failures(result)
    lines = text.summary(result)
    if lines:
        yield f'<section class="tiles">\n{"".join(_tiles(result, lines))}</section>\n'
        yield f'<div class="plots">\n{"".join(_plots(result))}</div>\n'
        yield from _tables(result, lines)
    yield '<section><h2>What was compared</h2>\n<div class="facts">\n'
    yield _side("Reference", result.reference) + _side("Candidate", result.candidate)
    facts = {"tool": tool_name(), **result.environment}
    listed = _list((name, escape(value)) for name, value in facts.items())
    yield f"<div><h3>Environment</h3>\n{listed}</div>\n</div></section>\n"


def _head(result: ParityResult) -> Iterator[str]:
    state = ("good", "within limits") if result else ("bad", "outside limits")
    yield f'<header><p class="verdict {state[0]}">{"PASS" if result else "FAIL"}</p><div>\n'
    yield f"<h1>{escape(result.candidate.name)}</h1>\n"
    yield f"<p>{state[1]}, against <b>{escape(result.reference.name)}</b></p>\n"
    lines = (text.compared(result), text.layer_line(result), text.stage_line(result))
    yield f'<p class="muted">{escape(". ".join(lines))}.</p>\n</div></header>\n'
    for note in (*text.also_judged(result), *result.notes):
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

    nearest = max(lines, key=lambda line: excess(line.check))
    failed = sum(not line.passed for line in lines)
    name = f"{nearest.subject}, {nearest.check.limit.metric.value}"
    if failed:
        yield _tile("limits are not held", f"{failed} of {len(lines)}", f"worst: {name}", False)
    else:
        used = f"{100 * excess(nearest.check):.3g} %"
        yield _tile("of a limit is used, at the worst", used, name, True)
    decided = result.tallies
    if decided:
        counts = [(t.decisions, t.flipped, t.tied, t.near_ties) for t in decided]
        count, flipped, tied, near = map(sum, zip(*counts, strict=True))
        note = f"{flipped} flipped, and {tied} of {near} near ties"
        share = percent(1 - flipped / max(1, count))
        both = good(Metric.AGREEMENT) and good(Metric.TIED_FLIPS)
        yield _tile("of the decisions agree", share, note, both)
    labelled = [tally for tally in decided if tally.labelled]
    if labelled:
        before, after = labelled[0].reference_bins.accuracy, labelled[0].candidate_bins.accuracy
        note, within = f"{percent(before)} before", good(Metric.ACCURACY_DROP)
        yield _tile("accuracy of the candidate", percent(after), note, within)
    ratios = [first / second for _, first, second in charts.timed_batches(result)]
    if ratios:
        kept = f", {result.cached} batches from the cache" if result.cached else ""
        first, second = (f"{seconds:.2f} s" for seconds in result.seconds.values())
        note = f"median; {first} and {second} in all{kept}"
        yield _tile("time per batch, reference / candidate", f"{median(ratios):.2f}", note, True)


def _tile(title: str, value: str, note: str, good: bool) -> str:
    return (
        f'<div class="tile{"" if good else " bad"}"><b>{escape(value)}</b>'
        f"<span>{escape(title)}</span><small>{escape(note)}</small></div>\n"
    )


def _plots(result: ParityResult) -> Iterator[str]:
    bounds = {limit.metric: limit.bound for limit in result.limits.limits}
    drawn = charts.layer_plot(result)
    if drawn is not None:
        about = "Hidden states, the worst of all data sets. Red is outside its limit."
        yield _figure("Error by layer", about, drawn, largest="largest", rms="rms")
    for name, errors in result.errors.items():
        about = f"Of a sample of the elements; {errors.exact} without any error are not shown."
        drawn = charts.spread_plot(name, errors, bounds.get(Metric.MAX_RELATIVE))
        yield _figure(f"Errors of {name}", about, drawn)
        tallies = [item.tallies[name] for item in result.data_sets if name in item.tallies]
        if tallies:
            drawn = charts.decision_plot(name, tallies, result)
            about = "On the line, both give the reference's choice the same probability."
            key = {"point": "same decision", "bad": "flipped", "tied": "near tie"}
            yield _figure(f"Decisions of {name}", about, drawn, **key)
        else:
            yield _figure(f"Values of {name}", "Of a sample.", charts.value_plot(name, errors))
    drawn = charts.latency_plot(result)
    if drawn is not None:
        sides = {"reference": result.reference, "candidate": result.candidate}
        key = {role: f"{role}: {side.runtime}" for role, side in sides.items()}
        about = "Each batch once, on the machine below: a look, not a benchmark."
        yield _figure("Latency", about, drawn, **key)


def _figure(title: str, about: str, drawing: str, **key: str) -> str:
    """A drawing below what it shows and the names of its kinds."""
    swatch = '<span><i class="swatch {}"></i>{}</span>'
    names = "".join(swatch.format(kind, escape(name)) for kind, name in key.items())
    head = f"<h2>{escape(title)}</h2><p>{escape(about)}</p>"
    head += f'<p class="key">{names}</p>' if key else ""
    return f"<figure><figcaption>{head}</figcaption>\n{drawing}</figure>\n"


def _tables(result: ParityResult, lines: Sequence[Line]) -> Iterator[str]:
    found = text.all_flips(result)
    if found:
        titles = ["text", "reference", "candidate", "label", ""]
        left = len(found) - _FLIPS
        more = f'<p class="muted">{left} more are in parity.json.</p>\n' if left > 0 else ""
        yield _table("Changed decisions", titles, map(_flip, found[:_FLIPS]), more)
    rows = [decision_cells(item, name) for item in result.data_sets for name in item.tallies]
    if rows:
        titles = ["data set", "output", "decisions", "verdicts", "mean KL, nats", "accuracy"]
        titles += ["calibration error", "mean confidence"]
        cells = ([escape(cell or "no labels") for cell in row] for row in rows)
        yield _table("Decisions by data set", titles, cells)
    titles = ["output", "metric", "value", "permitted", "of the limit", "", "reason"]
    yield _table("Limits", titles, map(_limit, lines))


def _table(title: str, titles: Iterable[str], rows: Iterable[Iterable[str]], more: str = "") -> str:
    """A section with a table; the cells are HTML."""
    head = "".join(f"<th>{name}</th>" for name in titles)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>\n" for row in rows)
    return (
        f'<section><h2>{title}</h2>\n<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"{body}</table></div>\n{more}</section>\n"
    )


def _flip(cells: Sequence[str]) -> Iterator[str]:
    where, token, *choices, label, tied = cells
    yield escape(where[:300]) + (token and f' <span class="muted">{token}</span>')
    for choice in choices:
        name, _, score = choice.rpartition(" ")
        yield f"{escape(name)} <b>{score}</b>"
    yield escape(label)
    yield tied


def _limit(line: Line) -> Iterator[str]:
    limit, state = line.check.limit, "good" if line.passed else "bad"
    subject, metric, value, bound = map(escape, line.cells)
    yield from (subject, metric, value, f'<span class="whole">{bound}</span>')
    width = 100 * min(1.0, excess(line.check))
    yield f'<span class="gauge {state}"><i style="width:{width:.1f}%"></i></span>'
    yield f'<span class="{state}">{"ok" if line.passed else "FAIL"}</span>'
    origin = "" if limit.origin == BUILT_IN else f" ({limit.origin})"
    yield f'<div class="muted reason">{escape(limit.reason + origin)}</div>'


def _side(role: str, side: SideInfo) -> str:
    head = f"<h3>{role}: {escape(side.kind)}, {escape(side.precision)}</h3>"
    head += f"\n<p>{escape(side.name)}, run by {escape(side.runtime)}</p>\n"
    notes = "".join(f'<p class="muted">{escape(note)}</p>\n' for note in side.notes)
    files = _list((item.path, f"<code>{item.sha256}</code>") for item in side.files)
    return f"<div>{head}{notes}{files if side.files else ''}</div>\n"


def _list(entries: Iterable[tuple[str, str]]) -> str:
    """Names and what they are, the latter as HTML."""
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{value}</dd>\n" for name, value in entries)
    return f"<dl>\n{lines}</dl>\n"
