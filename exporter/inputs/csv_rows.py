"""Rows of a CSV file with a header."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from calibration.text_columns import COLUMNS, Columns
from calibration.texts import TextItem
from exporter.errors import InputError
from exporter.inputs.table_rows import Row, Section, row_of

_LONGEST = (1 << 31) - 1
"""Characters of a cell; Python's own limit of 131,072 is one of the process."""


def csv_texts(path: Path) -> Iterator[TextItem]:
    """The texts of UTF-8 CSV in the order of its rows, read as they are needed.

    Raises:
        InputError: it cannot be read, has no column `text`, or is malformed; the message names the
            line.
    """
    with _readable(path), path.open("rb") as file:
        header: list[str] | None = None
        for cells, _, line in _records(file, 0, "strict"):
            if header is None:
                header = _checked(path, cells, COLUMNS)
                continue
            item = _row(header, cells, COLUMNS).item
            if isinstance(item, str):
                raise InputError(f"{path}, line {line}: {item}")
            yield item
        if header is None:
            _checked(path, [], COLUMNS)


def csv_header(path: Path, columns: Columns) -> list[str]:
    """Names of the columns; an InputError where they are no header, or the text's is not there."""
    with _readable(path), path.open("rb") as file:
        cells, *_ = next(_records(file, 0), ([], 0, 0))
    return _checked(path, cells, columns)


def csv_sections(path: Path, form: str, size: int) -> Iterator[Section]:
    """The file in sections of `size` rows; an InputError where its quotes do not match."""
    with _readable(path), path.open("rb") as file:
        records = _records(file, 0)
        _, begin, _ = next(records, ([], 0, 0))
        first = 0
        while places := [place for _, place, _ in islice(records, size)]:
            yield Section(path, form, first, len(places), begin)
            first, begin = first + len(places), places[-1]


def csv_rows(section: Section, columns: Columns) -> Iterator[Row]:
    """The rows of a section; bytes that are not UTF-8 are lone surrogates, which no model takes."""
    header = csv_header(section.path, columns)
    with _readable(section.path), section.path.open("rb") as file:
        file.seek(section.offset)
        for cells, *_ in islice(_records(file, section.offset), section.rows):
            yield _row(header, cells, columns)


def _records(
    file: BinaryIO, place: int, errors: str = "surrogateescape"
) -> Iterator[tuple[list[str], int, int]]:
    """Cells of each record that is not blank, the place in bytes behind it, its last line."""

    def lines() -> Iterator[str]:
        nonlocal place
        for raw in file:
            text = raw.decode("utf-8-sig" if place == 0 else "utf-8", errors)
            place += len(raw)
            yield text

    csv.field_size_limit(_LONGEST)
    reader = csv.reader(lines(), strict=True)
    for cells in reader:
        if cells:
            yield cells, place, reader.line_num


def _checked(path: Path, header: list[str], columns: Columns) -> list[str]:
    if columns.text not in header:
        found = ", ".join(header) or "none"
        raise InputError(f"{path}: no column {columns.text!r}; its columns are {found}")
    if len(set(header)) < len(header):
        raise InputError(f"{path}: two columns {max(header, key=header.count)!r}; rename one")
    return header


def _row(header: list[str], cells: list[str], columns: Columns) -> Row:
    values: dict[str, Any] = dict(zip(header, cells, strict=False))
    if len(cells) == len(header):
        return row_of(values, columns)
    values = dict.fromkeys(header) | values
    more = f", and beyond {json.dumps(cells[len(header) :])}" if len(cells) > len(header) else ""
    problem = f"not as many cells as columns: {len(cells)} for {len(header)}{more}"
    return Row(values, problem)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not CSV in UTF-8 ({error})") from None
