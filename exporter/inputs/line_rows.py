"""Rows of plain text and of JSON lines, one a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from calibration.text_columns import Columns
from calibration.texts import begins_jsonl, plain_text
from exporter.inputs.table_rows import Row, Section, item_or_problem, row_of


def begins_as_json(path: Path) -> bool:
    """Whether the first line that is not blank says that all are JSON."""
    with path.open("rb") as file:
        first = next((line for line in file if line.strip()), b"")
    return begins_jsonl(first.decode("utf-8-sig", "replace"))


def line_sections(path: Path, form: str, size: int) -> Iterator[Section]:
    """The file in sections of `size` rows; blank lines are texts in plain text alone."""
    with path.open("rb") as file:
        first = rows = begin = end = 0
        for line, place in _lines(file, 0, form):
            end = place + len(line)
            rows += 1
            if rows == size:
                yield Section(path, form, first, rows, begin)
                first, rows, begin = first + rows, 0, end
        if rows:
            yield Section(path, form, first, rows, begin)


def line_rows(section: Section, columns: Columns) -> Iterator[Row]:
    """The rows of a section; those of plain text have the columns that their texts belong in."""
    with section.path.open("rb") as file:
        file.seek(section.offset)
        for line, place in islice(_lines(file, section.offset, section.form), section.rows):
            yield _row(line, place, section.form, columns)


def _lines(file: BinaryIO, place: int, form: str) -> Iterator[tuple[bytes, int]]:
    """The lines that are rows, each with its place in bytes."""
    for line in file:
        if form == "text" or line.strip():
            yield line, place
        place += len(line)


def _row(line: bytes, place: int, form: str, columns: Columns) -> Row:
    unread = {columns.text: line.strip().decode("utf-8", "backslashreplace")}
    if b"\0" in line:
        return Row(unread, "binary data; give UTF-8 text")
    try:
        text = line.decode("utf-8-sig" if place == 0 else "utf-8")
        text = text.removesuffix("\n").removesuffix("\r")
        if form == "text":
            return _plain_row(text, columns)
        value = json.loads(text)
    except UnicodeDecodeError as error:
        return Row(unread, f"not UTF-8 ({error.reason})")
    except (ValueError, RecursionError) as error:
        return Row(unread, f"not JSON ({error})")
    if isinstance(value, str):
        value = {columns.text: value}
    if not isinstance(value, dict):
        return Row(unread, "expected a JSON string or an object")
    return row_of(value, columns)


def _plain_row(text: str, columns: Columns) -> Row:
    item = item_or_problem(partial(plain_text, text))
    if isinstance(item, str):
        return Row({columns.text: text}, item)
    values: dict[str, object] = {columns.text: item.text}
    if len(item.second) == 1:
        values[columns.pair] = item.second[0]
    elif item.second:
        values[columns.choices] = list(item.second)
    return Row(values, item)
