"""What the windows of one text have in common: how much was read, and characters of the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from exporter.inputs.encode import Example


def amount_read(windows: Sequence[Example]) -> dict[str, Any]:
    """The fields of `Read`: several windows are the whole text."""
    total = sum(row.total for row in windows[0].rows)
    read = total if len(windows) > 1 else sum(len(row) for row in windows[0].rows)
    return {"tokens_read": read, "tokens_total": total, "truncated": read < total}


def pair_of(example: Example) -> str | None:
    """The second text, where there is one."""
    return example.second[0] if example.second else None


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without the white space around it; tokens carry the space before their word."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
