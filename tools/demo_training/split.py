"""The rated sentences behind the demo and their fixed split into train, validation and test.

The part of a sentence is a function of its text alone, so neither the order of the file nor rows
added later move a sentence, and all copies of a text land in the same part.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from exporter.errors import InputError

NEGATIVE, POSITIVE = 0, 1

COLUMNS = ("source", "rating", "text")

# Ratings run from -4 to +4 and are means of about 10 to 20 raters; nearer to zero than this, the
# raters disagree on the sign, so a binary label would be noise.
NEUTRAL_BELOW = 0.5

TEST_PERCENT = 13
VALIDATION_PERCENT = 6


@dataclass(frozen=True)
class Example:
    """One rated sentence.

    `label` is POSITIVE (1) or NEGATIVE (0), the sign of `rating`; `rating` is the mean of several
    raters, -4 very negative to +4 very positive; `source` is `amazon`, `movie` or `tweet`.
    """

    text: str
    label: int
    rating: float
    source: str


@dataclass(frozen=True)
class Split:
    """The parts of the data. A text is in one part only.

    `train`, `validation` and `test` hold sentences with a clear sign (|rating| >= 0.5). `neutral`
    holds the others of the train part: text to learn language from, with no sound binary label.
    """

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    neutral: tuple[Example, ...]


def part_of(text: str) -> str:
    """`train`, `validation` or `test`, from SHA-256 of the text without case and extra spaces."""
    canonical = " ".join(text.casefold().split())
    digest = hashlib.sha256(canonical.encode("utf-8")).digest()
    bucket = int.from_bytes(digest[:8], "big") % 100
    if bucket < TEST_PERCENT:
        return "test"
    if bucket < TEST_PERCENT + VALIDATION_PERCENT:
        return "validation"
    return "train"


def load_split(path: Path | str) -> Split:
    """Read a tab-separated file with the columns source, rating, text and split it.

    Neutral sentences of the validation and test parts are left out altogether.

    Raises InputError when the file is absent, is not UTF-8, has other columns, a row is malformed,
    or a part stays empty.
    """
    parts: dict[str, list[Example]] = {"train": [], "validation": [], "test": [], "neutral": []}
    for example in _read(Path(path)):
        part = part_of(example.text)
        if abs(example.rating) >= NEUTRAL_BELOW:
            parts[part].append(example)
        elif part == "train":
            parts["neutral"].append(example)
    for name in ("train", "validation", "test"):
        if not parts[name]:
            raise InputError(f"{path}: the {name} part is empty; the file has too few sentences")
    return Split(**{name: tuple(examples) for name, examples in parts.items()})


def _read(path: Path) -> Iterator[Example]:
    """Yield every row of the file as an Example."""
    try:
        # newline="" and QUOTE_NONE: quotation marks are text here, not syntax.
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            header = next(rows, [])
            if tuple(header) != COLUMNS:
                raise InputError(
                    f"{path}: the first row is {header}; expected the columns {list(COLUMNS)}"
                )
            for row in rows:
                yield _example(path, rows.line_num, row)
    except OSError as error:
        raise InputError(f"cannot read the sentences {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error.reason}") from error


def _example(path: Path, line: int, row: list[str]) -> Example:
    """One row as an Example; InputError names the line when it is malformed."""
    if len(row) != len(COLUMNS):
        raise InputError(f"{path}, line {line}: {len(row)} columns instead of {len(COLUMNS)}")
    source, rating_text, text = row
    try:
        rating = float(rating_text)
    except ValueError as error:
        raise InputError(f"{path}, line {line}: rating {rating_text!r} is no number") from error
    if not -4.0 <= rating <= 4.0 or not text.strip():
        raise InputError(f"{path}, line {line}: rating outside -4..4, or no text")
    return Example(text, POSITIVE if rating > 0 else NEGATIVE, rating, source)
