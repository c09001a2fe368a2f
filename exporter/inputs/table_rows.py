"""Rows of a user's file: whole, in order, each with its texts or with what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibration.calibration_error import CalibrationError
from calibration.text_columns import Columns, row_texts
from calibration.texts import TextItem


@dataclass(frozen=True)
class Section:
    """Rows of a file that stand together: the number of the first, from 0, and how many.

    `offset` is the place of the first in bytes, in files that have one for each row.
    """

    path: Path
    form: str
    first: int
    rows: int
    offset: int = 0


@dataclass(frozen=True)
class Row:
    """The columns of a row, and its texts; or, in their place, what is wrong with it."""

    values: Mapping[str, Any]
    item: TextItem | str


def row_of(values: Mapping[str, Any], columns: Columns) -> Row:
    """The row with these columns."""
    return Row(values, item_or_problem(lambda: TextItem(*row_texts(values, columns))))


def item_or_problem(read: Callable[[], TextItem]) -> TextItem | str:
    """What `read` gives, or what it complains about."""
    try:
        return read()
    except CalibrationError as error:
        return str(error)
