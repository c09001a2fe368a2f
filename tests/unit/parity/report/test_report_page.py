"""The HTML report in a real headless browser: both themes, nothing from elsewhere, plots drawn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.browser import VARIABLE, Browser, find_browser
from support.parity_results import Arrays, compared, shape_of

from exporter.parity.report.html import to_html

PAGE_COLOURS = {"light": 0xF7F7F5, "dark": 0x14161A}
SURFACE = {"light": 0xFFFFFF, "dark": 0x1C1F25}
BLUE = {"light": 0x2F6FB7, "dark": 0x6AA9F0}
ORANGE = {"light": 0xC8671B, "dark": 0xF0A35E}
BAD = {"light": 0xC32F2F, "dark": 0xFF7B72}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip(f"no chromium or chrome on the path; install one, or name it in {VARIABLE}")
    with Browser(program) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    candidate = Arrays(shape_of(), (0.0, 1e-6, 0.2, 0.2), output_noise=0.8)
    path = folder / "report.html"
    path.write_text(to_html(compared(folder / "store", candidate, repeat=8)), encoding="utf-8")
    return path


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_is_drawn_in_both_themes(theme: str, page: Path, browser: Browser) -> None:
    shown = browser.show(page, theme)
    assert shown.requests == ()
    assert shown.messages == ()
    assert not shown.wide
    assert shown.page[PAGE_COLOURS[theme]] > 10_000
    other = PAGE_COLOURS["dark" if theme == "light" else "light"]
    assert shown.page.get(other, 0) < 1000
    layers, spread, decisions, latency = shown.plots
    for plot in shown.plots:
        # Axes, names and marks: a drawing with nothing in it has none of these pixels.
        assert plot[SURFACE[theme]] > 0.5 * sum(plot.values())
        assert sum(plot.values()) - plot[SURFACE[theme]] > 3000
    # The lines, points and bars of a theme, as they stand in its style sheet.
    assert layers[BLUE[theme]] > 20 and layers[BAD[theme]] > 20  # two layers outside their limits
    assert spread[BAD[theme]] > 1000  # bars beyond the limit
    assert decisions[BAD[theme]] > 20  # flipped decisions
    assert latency[BLUE[theme]] > 20 and latency[ORANGE[theme]] > 20  # both, at the same place


def test_the_page_fits_a_telephone(page: Path, browser: Browser) -> None:
    assert not browser.show(page, "light", width=400).wide
