"""Progress on a terminal and elsewhere."""

from __future__ import annotations

import io
import re
import time

from exporter.progress import ProgressLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_elsewhere_than_on_a_terminal() -> None:
    stream = io.StringIO()
    with ProgressLine(stream) as progress:
        progress("reading")
        for number in range(500):
            progress(f"writing {number} %")
        progress("done")
    lines = stream.getvalue().splitlines()
    assert [re.sub(r"^\[ *[\d.]+ s\] ", "", line) for line in lines] == [
        "reading",
        "writing 0 %",
        "done",
    ]
    assert "\x1b" not in stream.getvalue()
    assert "\r" not in stream.getvalue()


def test_one_line_is_rewritten_on_a_terminal_and_removed_at_the_end() -> None:
    stream = Terminal()
    with ProgressLine(stream) as progress:
        progress("reading")
        progress("writing " + "x" * 500)
        time.sleep(0.6)
    text = stream.getvalue()
    assert "\n" not in text
    assert text.endswith("\r\x1b[K")
    shown = text.split("\r\x1b[K")
    assert all(len(line) < 500 for line in shown)
    # Shown again with a new time while nothing new was said.
    assert sum("writing" in line for line in shown) >= 2
