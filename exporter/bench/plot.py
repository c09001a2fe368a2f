"""A measurement as an SVG picture: a bar for each contender and workload, no library needed."""

from __future__ import annotations

from xml.sax.saxutils import escape

from exporter.bench.measure import BenchResult, Timing

_COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2", "#9d755d", "#bab0ac")
_WIDTH, _BAR, _GAP, _HEAD = 960, 22, 34, 28
_LEFT, _RIGHT = 330, 150


def to_svg(result: BenchResult) -> str:
    """Bars of the median latency, a whisker from the 20th to the 80th percentile, one scale for
    each workload, since these differ by orders of magnitude."""
    names = [entry.name for entry in result.entries]
    body: list[str] = []
    top = 50
    for workload in dict.fromkeys(timing.workload for timing in result.timings):
        timings = [timing for timing in result.timings if timing.workload == workload]
        first = timings[0]
        title = f"{workload}: {first.sentences} sentences, {first.tokens} tokens"
        body.append(_text(16, top + 14, title, "bold"))
        top += _HEAD
        scale = (_WIDTH - _LEFT - _RIGHT) / max(timing.spread_ms[1] for timing in timings)
        for timing in timings:
            colour = _COLOURS[names.index(timing.contender) % len(_COLOURS)]
            body += _bar(timing, top, scale, colour)
            top += _BAR + 6
        top += _GAP - 6
    title = f"Latency, ms: median, 20th to 80th percentile of {result.config.rounds} rounds"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" '
            f'width="{_WIDTH}" height="{top}" font-family="sans-serif" font-size="13">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{_WIDTH}" height="{top}" fill="white"/>',
            _text(16, 26, title, "bold"),
            *body,
            "</svg>",
            "",
        ]
    )


def _bar(timing: Timing, top: float, scale: float, colour: str) -> list[str]:
    low, high = (_LEFT + scale * value for value in timing.spread_ms)
    middle = top + _BAR / 2
    value = f"{timing.latency_ms:.4g} ms, {timing.sentences_per_second:.4g}/s"
    return [
        _text(_LEFT - 8, middle + 5, timing.contender, anchor="end"),
        f'<rect x="{_LEFT}" y="{top}" width="{scale * timing.latency_ms:.1f}" height="{_BAR}" '
        f'fill="{colour}"/>',
        f'<line x1="{low:.1f}" y1="{middle}" x2="{high:.1f}" y2="{middle}" stroke="black"/>',
        _text(max(high, _LEFT + scale * timing.latency_ms) + 8, middle + 5, value),
    ]


def _text(x: float, y: float, text: str, weight: str = "normal", anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-weight="{weight}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )
