"""Plots as SVG; colours come from a style sheet, so that they follow the theme of a page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, isfinite, log10

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 44


def element(tag: str, *content: str, **attributes: object) -> str:
    """An element with others in it; `kind` is its class, `_` in a name stands for `-`."""
    parts = [f"<{tag}"]
    for name, value in attributes.items():
        name = "class" if name == "kind" else name.replace("_", "-")
        shown = round(value, 2) if isinstance(value, float) else escape(str(value))
        parts.append(f' {name}="{shown}"')
    inner = "".join(content)
    return "".join(parts) + (f">{inner}</{tag}>" if inner else "/>")


def words(text: str, **attributes: object) -> str:
    """A text in the drawing."""
    return element("text", escape(text), **attributes)


def tip(text: str) -> str:
    """What shows when one points at the element that it is in; nothing for nothing."""
    return element("title", escape(text)) if text else ""


@dataclass(frozen=True)
class Axis:
    """One axis from `low` to `high`, above it; with `log`, decimal logarithms are even."""

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
        size = next(f * power for f in (1, 2, 5, 10) if f * power >= raw * 0.999)
        first, last = ceil(self.low / size - 1e-9), floor(self.high / size + 1e-9)
        return tuple(index * size for index in range(first, last + 1))


def log_axis(title: str, values: Iterable[float]) -> Axis:
    """An axis in whole decades around positive values."""
    found = [value for value in values if value > 0 and isfinite(value)]
    low = floor(log10(min(found, default=1e-7)) + 1e-9)
    high = ceil(log10(max(found, default=1e-5)) + 0.05)
    return Axis(title, 10.0**low, 10.0 ** max(high, low + 1), log=True)


@dataclass(frozen=True)
class Plot:
    """A plot in the making; `svg` ends it. Kinds are classes of the style sheet.

    Attributes:
        label: what it shows, for those who do not see it.
        x: horizontal axis, with `names` in the place of its numbers where there are any.
        y: vertical axis.
    """

    label: str
    x: Axis
    y: Axis
    names: Sequence[str] = ()

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = LEFT + self.x.place(x) * (WIDTH - LEFT - RIGHT)
        down = HEIGHT - BOTTOM - self.y.place(y) * (HEIGHT - TOP - BOTTOM)
        return round(across, 2), round(down, 2)

    def line(self, points: Sequence[tuple[float, float]], kind: str) -> str:
        path = " ".join(f"{x},{y}" for x, y in (self.at(*point) for point in points))
        return element("polyline", kind=f"line {kind}", points=path)

    def level(self, value: float, kind: str, text: str) -> str:
        """A line across the plot with its name at the left end."""
        (left, y), (right, _) = self.at(self.x.low, value), self.at(self.x.high, value)
        name = words(text, kind=f"level-name {kind}", x=left + 4, y=y - 5)
        return element("line", kind=f"level {kind}", x1=left, x2=right, y1=y, y2=y) + name

    def limit_at(self, value: float, text: str) -> str:
        """A line down the plot with its name at the top."""
        (x, bottom), (_, top) = self.at(value, self.y.low), self.at(value, self.y.high)
        shift, anchor = (-5, "end") if x > WIDTH - RIGHT - 90 else (5, "start")
        name = words(text, kind="level-name bad", y=top + 11, x=x + shift, text_anchor=anchor)
        return element("line", kind="level bad", x1=x, x2=x, y1=bottom, y2=top) + name

    def mark(self, x: float, y: float, kind: str, radius: float, title: str = "") -> str:
        """A point; the title shows when one points at it."""
        across, down = self.at(x, y)
        return element("circle", tip(title), kind=f"mark {kind}", cx=across, cy=down, r=radius)

    def bar(self, low: float, high: float, value: float, kind: str, title: str) -> str:
        """A bar from the bottom."""
        (left, top), (right, bottom) = self.at(low, value), self.at(high, self.y.low)
        size = {"width": max(0.5, right - left - 1), "height": max(0.0, bottom - top)}
        return element("rect", tip(title), kind=f"bar {kind}", x=left + 0.5, y=top, **size)

    def svg(self, *content: str) -> str:
        """The drawing with its axes below the content."""
        attributes = {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria_label": self.label}
        return element("svg", *self._grid(), *content, **attributes)

    def _grid(self) -> Iterator[str]:
        bottom = HEIGHT - BOTTOM
        for value in self.y.ticks:
            (left, y), (right, _) = self.at(self.x.low, value), self.at(self.x.high, value)
            yield element("line", kind="grid", x1=left, x2=right, y1=y, y2=y)
            name = _number(value, self.y.log)
            yield words(name, kind="tick", x=left - 7, y=y + 4, text_anchor="end")
        step = ceil(len(self.names) / 14)
        names = [(float(i), name) for i, name in enumerate(self.names) if i % step == 0]
        for value, name in names or [(v, _number(v, self.x.log)) for v in self.x.ticks]:
            x, _ = self.at(value, self.y.low)
            yield element("line", kind="grid", x1=x, x2=x, y1=bottom, y2=bottom + 4)
            yield words(name, kind="tick", x=x, y=bottom + 17, text_anchor="middle")
        yield element("line", kind="axis", x1=LEFT, x2=WIDTH - RIGHT, y1=bottom, y2=bottom)
        title: dict[str, object] = {"kind": "title", "text_anchor": "middle"}
        yield words(self.x.title, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 6, **title)
        turned = f"translate(13 {(TOP + bottom) / 2}) rotate(-90)"
        yield words(self.y.title, transform=turned, **title)


def _number(value: float, log: bool) -> str:
    if log and not 0.01 <= value < 10000:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.4g}"
