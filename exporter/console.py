"""Text for people: columns, sizes, and texts of others within a line."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence


def aligned(rows: Sequence[Sequence[str]], numbers: Collection[int] = ()) -> list[str]:
    """Rows as lines with aligned columns: those in `numbers` to the right, texts to the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if index in numbers else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def one_line(text: str) -> str:
    """A text or label of somebody's, with what breaks lines, columns or terminals as escapes."""
    breaks = {char for char in text if unicodedata.category(char) in ("Cc", "Zl", "Zp")}
    return text.translate({ord(char): char.encode("unicode_escape").decode() for char in breaks})


def size_text(size: int) -> str:
    """A size in bytes for people, such as `12.3 MiB`."""
    value, unit = float(size), "bytes"
    for larger in ("KiB", "MiB", "GiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{size} bytes" if unit == "bytes" else f"{value:.1f} {unit}"
