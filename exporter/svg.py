"""Plots as inline SVG; colours come from the page's style sheet, so that they follow its theme."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, isfinite, log10

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 44


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        title: what it shows.
        low: value at its beginning.
        high: value at its end; above `low`.
        log: decimal logarithms of the values are even.
    """

    title: str
    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value is, 0 to 1; outside values are put on the edge."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high = log10(low), log10(high)
            at = log10(max(value, self.low))
        return min(1.0, max(0.0, (at - low) / (high - low)))

    @property
    def ticks(self) -> tuple[float, ...]:
        """Round values on the axis, about five."""
        if self.log:
            first, last = ceil(log10(self.low) - 1e-9), floor(log10(self.high) + 1e-9)
            if last - first <= 2:
                found = [f * 10.0**power for power in range(first, last + 1) for f in (1, 2, 5)]
                return tuple(value for value in found if value <= self.high * (1 + 1e-9))
            step = max(1, ceil((last - first) / 6))
            return tuple(10.0**power for power in range(first, last + 1, step))
        raw = (self.high - self.low) / 5
        power = 10.0 ** floor(log10(raw))
        step_size = next(f * power for f in (1, 2, 5, 10) if f * power >= raw * 0.999)
        count = floor(self.high / step_size + 1e-9)
        start = ceil(self.low / step_size - 1e-9)
        return tuple(index * step_size for index in range(start, count + 1))


def log_axis(title: str, values: Iterable[float]) -> Axis:
    """An axis in whole decades around positive values."""
    found = [value for value in values if value > 0 and isfinite(value)]
    low = floor(log10(min(found, default=1e-7)) + 1e-9)
    high = ceil(log10(max(found, default=1e-5)) + 0.05)
    return Axis(title, 10.0**low, 10.0 ** max(high, low + 1), log=True)


@dataclass(frozen=True)
class Mark:
    """A point: where, which class of the style sheet, and what shows when one points at it."""

    x: float
    y: float
    kind: str
    title: str = ""


@dataclass(frozen=True)
class Plot:
    """A plot in the making; `svg` ends it.

    Attributes:
        label: what it shows, for those who do not see it.
        x: horizontal axis.
        y: vertical axis.
        names: names in the place of the numbers of the horizontal axis.
    """

    label: str
    x: Axis
    y: Axis
    names: Sequence[str] = ()

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Position in the drawing."""
        across = LEFT + self.x.place(x) * (WIDTH - LEFT - RIGHT)
        down = HEIGHT - BOTTOM - self.y.place(y) * (HEIGHT - TOP - BOTTOM)
        return round(across, 2), round(down, 2)

    def line(self, points: Sequence[tuple[float, float]], kind: str) -> str:
        """A line through points."""
        path = " ".join(f"{x},{y}" for x, y in (self.at(*point) for point in points))
        return f'<polyline class="line {kind}" points="{path}"/>'

    def level(self, value: float, kind: str, text: str) -> str:
        """A line across the plot with its name at the left end."""
        (left, y), (right, _) = self.at(self.x.low, value), self.at(self.x.high, value)
        return (
            f'<line class="level {kind}" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>'
            f'<text class="level-name {kind}" x="{left + 4}" y="{y - 5}">'
            f"{escape(text)}</text>"
        )

    def limit_at(self, value: float, text: str) -> str:
        """A line down the plot with its name at the top."""
        (x, bottom), (_, top) = self.at(value, self.y.low), self.at(value, self.y.high)
        near_end = x > WIDTH - RIGHT - 90
        anchor, shift = ("end", -5) if near_end else ("start", 5)
        return (
            f'<line class="level bad" x1="{x}" x2="{x}" y1="{bottom}" y2="{top}"/>'
            f'<text class="level-name bad" x="{x + shift}" y="{top + 11}" text-anchor="{anchor}">'
            f"{escape(text)}</text>"
        )

    def marks(self, marks: Iterable[Mark], radius: float = 3.0) -> str:
        """Points."""
        parts = []
        for mark in marks:
            x, y = self.at(mark.x, mark.y)
            title = f"<title>{escape(mark.title)}</title>" if mark.title else ""
            parts.append(
                f'<circle class="mark {mark.kind}" cx="{x}" cy="{y}" r="{radius}">{title}</circle>'
            )
        return "".join(parts)

    def bar(self, low: float, high: float, value: float, kind: str, title: str) -> str:
        """A bar from the bottom."""
        (left, top), (right, bottom) = self.at(low, value), self.at(high, self.y.low)
        width, height = max(0.5, right - left - 1), max(0.0, bottom - top)
        return (
            f'<rect class="bar {kind}" x="{left + 0.5}" y="{top}" width="{width:.2f}" '
            f'height="{height:.2f}"><title>{escape(title)}</title></rect>'
        )

    def svg(self, *content: str) -> str:
        """The drawing with its axes below the content."""
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self.label)}">'
            f"{self._grid()}{''.join(content)}</svg>"
        )

    def _grid(self) -> str:
        parts = []
        for value in self.y.ticks:
            (left, y), (right, _) = self.at(self.x.low, value), self.at(self.x.high, value)
            parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
            parts.append(_tick(left - 7, y + 4, "end", _number(value, self.y.log)))
        bottom = HEIGHT - BOTTOM
        for value, name in self._across():
            x, _ = self.at(value, self.y.low)
            parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 4}"/>')
            parts.append(_tick(x, bottom + 17, "middle", name))
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(
            f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>'
            f'<text class="title" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">'
            f"{escape(self.x.title)}</text>"
            f'<text class="title" transform="translate(13 {(TOP + bottom) / 2}) rotate(-90)" '
            f'text-anchor="middle">{escape(self.y.title)}</text>'
        )
        return "".join(parts)

    def _across(self) -> list[tuple[float, str]]:
        if not self.names:
            return [(value, _number(value, self.x.log)) for value in self.x.ticks]
        step = max(1, ceil(len(self.names) / 14))
        return [(float(i), name) for i, name in enumerate(self.names) if i % step == 0]


def _tick(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text class="tick" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def _number(value: float, log: bool) -> str:
    if log and not 0.01 <= value < 10000:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.4g}"
