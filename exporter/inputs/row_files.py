"""Files of rows, whatever their format: the only place that knows which there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from calibration.text_columns import Columns
from exporter.errors import InputError
from exporter.inputs.csv_rows import csv_header, csv_rows, csv_sections
from exporter.inputs.line_rows import begins_as_json, line_rows, line_sections
from exporter.inputs.parquet_rows import parquet_header, parquet_rows, parquet_sections
from exporter.inputs.table_rows import Row, Section

FORMS = ("text", "jsonl", "csv", "parquet")
WITH_HEADER = ("csv", "parquet")

_ENDINGS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}
_ENDINGS |= {".pq": "parquet"}
_SECTIONS: dict[str, Callable[[Path, str, int], Iterator[Section]]] = {
    "csv": csv_sections,
    "parquet": parquet_sections,
}
_ROWS: dict[str, Callable[[Section, Columns], Iterator[Row]]] = {
    "csv": csv_rows,
    "parquet": parquet_rows,
}


def form_of(path: Path) -> str:
    """The format of a file, by its ending or else its first line; an InputError for no file."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give its files")
    try:
        return _ENDINGS.get(path.suffix.lower()) or ("jsonl" if begins_as_json(path) else "text")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def header_of(path: Path, form: str, columns: Columns) -> list[str] | None:
    """Names of the columns, None for a format without; an InputError where the text's lacks."""
    if form not in WITH_HEADER:
        return None
    return csv_header(path, columns) if form == "csv" else parquet_header(path, columns)


def sections_of(path: Path, form: str, size: int) -> Iterator[Section]:
    """The file in sections of `size` rows, in order; an InputError where it cannot be read."""
    try:
        yield from _SECTIONS.get(form, line_sections)(path, form, size)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def rows_of(section: Section, columns: Columns) -> Iterator[Row]:
    """The rows of a section, in order, read as they are needed; an InputError as above."""
    try:
        yield from _ROWS.get(section.form, line_rows)(section, columns)
    except OSError as error:
        raise InputError(f"{section.path}: cannot be read ({error.strerror})") from None
