"""Rows of a Parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

from calibration.text_columns import Columns
from exporter.errors import InputError, MissingDependencyError
from exporter.inputs.table_rows import Row, Section, row_of

INSTALL = 'pip install "deb-export[parquet]"'
_BATCH_ROWS = 1024


def parquet_header(path: Path, columns: Columns) -> list[str]:
    """Names of the columns; an InputError where the text's is not there."""
    with _opened(path) as file:
        names: list[str] = file.schema_arrow.names
    if columns.text not in names:
        found = ", ".join(names) or "none"
        raise InputError(f"{path}: no column {columns.text!r}; its columns are {found}")
    return names


def parquet_sections(path: Path, form: str, size: int) -> Iterator[Section]:
    """The file in sections of `size` rows."""
    with _opened(path) as file:
        total = file.metadata.num_rows
    for first in range(0, total, size):
        yield Section(path, form, first, min(size, total - first))


def parquet_rows(section: Section, columns: Columns) -> Iterator[Row]:
    """The rows of a section, with values of Python."""
    for batch in parquet_table(section).to_batches(max_chunksize=_BATCH_ROWS):
        for values in batch.to_pylist():
            yield row_of(values, columns)


def parquet_table(section: Section) -> Any:
    """The rows of a section as a `pyarrow.Table`, with the types of the file."""
    import pyarrow

    found, end = [], section.first + section.rows
    with _opened(section.path) as file:
        groups = range(file.metadata.num_row_groups)
        sizes = [file.metadata.row_group(i).num_rows for i in groups]
        begins = [0, *accumulate(sizes)]
        wanted = [i for i in groups if begins[i] < end and begins[i + 1] > section.first]
        place = begins[wanted[0]] if wanted else end
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, row_groups=wanted):
            begin, stop = max(section.first - place, 0), min(end - place, batch.num_rows)
            if begin < stop:
                found.append(batch.slice(begin, stop - begin))
            place += batch.num_rows
            if place >= end:
                break
        return pyarrow.Table.from_batches(found, schema=file.schema_arrow)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise MissingDependencyError(f"{path}: Parquet needs pyarrow; {INSTALL}") from None
    try:
        with ParquetFile(path) as file:
            yield file
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ArrowException as error:
        raise InputError(f"{path}: not a Parquet file ({error})") from None
