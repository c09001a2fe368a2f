"""A measurement as an SVG picture: a bar for each contender and workload."""

from __future__ import annotations

from exporter.bench.measure import BenchResult, Timing
from exporter.svg import element, tip, words

_COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2", "#9d755d", "#bab0ac")
_WIDTH, _BAR, _GAP, _HEAD = 960, 22, 34, 28
_LEFT, _RIGHT = 330, 150


def to_svg(result: BenchResult) -> str:
    """Bars of the median latency, a whisker from the 20th to the 80th percentile, one scale for
    each workload, since these differ by orders of magnitude."""
    names = [entry.name for entry in result.entries]
    title = f"Latency, ms: median, 20th to 80th percentile of {result.config.rounds} rounds"
    body = [words(title, x=16, y=26, font_weight="bold")]
    top = 50
    for workload in dict.fromkeys(timing.workload for timing in result.timings):
        timings = [timing for timing in result.timings if timing.workload == workload]
        head = f"{workload}: {timings[0].sentences} sentences, {timings[0].tokens} tokens"
        body.append(words(head, x=16, y=top + 14, font_weight="bold"))
        top += _HEAD
        scale = (_WIDTH - _LEFT - _RIGHT) / max(timing.spread_ms[1] for timing in timings)
        for timing in timings:
            colour = _COLOURS[names.index(timing.contender) % len(_COLOURS)]
            body.append(_bar(timing, top, scale, colour))
            top += _BAR + 6
        top += _GAP - 6
    page = element("rect", width=_WIDTH, height=top, fill="white")
    size = {"width": _WIDTH, "height": top, "viewBox": f"0 0 {_WIDTH} {top}", "font_size": 13}
    name = {"xmlns": "http://www.w3.org/2000/svg", "font_family": "sans-serif"}
    return element("svg", tip(title), page, *body, **name, **size) + "\n"


def _bar(timing: Timing, top: float, scale: float, colour: str) -> str:
    low, high = (_LEFT + scale * value for value in timing.spread_ms)
    width, middle = scale * timing.latency_ms, top + _BAR / 2
    name = words(timing.contender, x=_LEFT - 8, y=middle + 5, text_anchor="end")
    bar = element("rect", x=_LEFT, y=top, width=width, height=_BAR, fill=colour)
    whisker = element("line", x1=low, x2=high, y1=middle, y2=middle, stroke="black")
    value = f"{timing.latency_ms:.4g} ms, {timing.sentences_per_second:.4g}/s"
    end = max(high, _LEFT + width) + 8
    return name + bar + whisker + words(value, x=end, y=middle + 5)
