"""Texts of a CSV file with a header: the columns `text` and, for pairs, `text_pair`."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from calibration.texts import TextItem
from exporter.errors import InputError

_TEXT, _PAIR = "text", "text_pair"


def csv_texts(path: Path) -> Iterator[TextItem]:
    """The texts of UTF-8 CSV in the order of its rows, read as they are needed.

    Raises:
        InputError: it cannot be read, has no column `text`, or is malformed; the message names the
            line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            if _TEXT not in (rows.fieldnames or ()):
                found = ", ".join(rows.fieldnames or ()) or "none"
                raise InputError(f"{path}: no column {_TEXT!r}; its columns are {found}")
            for row in rows:
                text, pair = row[_TEXT], row.get(_PAIR)
                # DictReader has None for what lacks, as the cell or as the column.
                if None in row or None in row.values():
                    raise InputError(f"{path}, line {rows.line_num}: not as many cells as columns")
                yield TextItem(text, (pair,) if pair else ())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not CSV in UTF-8 ({error})") from None
