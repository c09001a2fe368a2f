"""The texts of a user: the only reader of text files, JSONL and labels, and their split in two.

docs/texts.md has the rule that every command follows.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from calibration.calibration_error import CalibrationError
from calibration.text_columns import row_texts

MAX_BYTES = 1 << 26  # of a file of texts
MINIMUM_TEXTS = 8  # fewer cannot show a distribution, nor be split
FEW_TEXTS = 64
"""Below it thresholds still vary with the choice of the texts, and a warning says so."""
HELD_BACK = 0.25  # share of the texts

_FEW_LABELS = 20  # so many distinct words after a tab are classes rather than texts
_LISTED = 10  # names of classes in a message


@dataclass(frozen=True)
class TextItem:
    """One text, a pair of texts, or a prompt with its choices.

    Attributes:
        second: nothing, the other text of a pair, or the choices.
        label: index of its class, or of the right choice, where the file says.
    """

    text: str
    second: tuple[str, ...] = ()
    label: int | None = None


class Classes:
    """What a label may be: name or index of a class; without `names` the index of a choice."""

    def __init__(self, names: Mapping[int, str] | None) -> None:
        self.of_choices = names is None
        names = names or {}
        folded = {index: name.casefold() for index, name in names.items()}
        spellings = Counter(folded.values())
        self._folded = {name: index for index, name in folded.items() if spellings[name] == 1}
        self._exact = {str(index): index for index in names}
        self._exact |= {name: index for index, name in names.items()}
        listed = [names[index] for index in sorted(names)]
        self._listed = ", ".join(listed[:_LISTED]) + (", ..." if len(listed) > _LISTED else "")

    def index(self, label: str, choices: int) -> int | None:
        """The class that a label of an item with so many choices means; None if it means none.

        A name counts as it is spelled; else as an index; else in upper or lower case, where that
        leaves one class.
        """
        if self.of_choices:
            return int(label) if label.isdecimal() and int(label) < choices else None
        return self._exact.get(label, self._folded.get(label.casefold()))

    def refusal(self, label: str, choices: int) -> str:
        """What is wrong with a label that means none."""
        if self.of_choices:
            return f"label {label!r}; expected 0 to below {choices} choices"
        return f"label {label!r}: the model's labels are {self._listed}"


def read_texts(
    path: Path, classes: Classes | None = None, labels: bool | None = None, judged: bool = False
) -> tuple[TextItem, ...]:
    """The texts of a file, one a line.

    A warning names labels that are not used, and pairs that look like labels.

    Args:
        path: UTF-8 text with tabs between the parts of a line, or JSONL.
        classes: what a label may be; None where the model gives a text no class.
        labels: whether the last column is a label. None finds out: it is where every line has one
            of `classes` there.
        judged: whether a label of JSONL that is none of `classes` is an error where None
            finds out.

    Raises:
        CalibrationError: the file is missing, empty, too large, binary or not UTF-8, or a line is
            malformed or has no label where it must; the message names the line.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CalibrationError(f"{path}: larger than {MAX_BYTES >> 20} MiB; give fewer texts")
        with path.open("rb") as file:
            jsonl = True if path.suffix.lower() in (".jsonl", ".ndjson") else None
            lines = [line for line in _lines(file, str(path), jsonl) if line is not None]
    except OSError as error:
        raise CalibrationError(f"{path}: cannot be read ({error.strerror})") from None
    if not lines:
        raise CalibrationError(f"{path} is empty; give one text per line")
    if labels is None:
        labels = classes is not None and _all_labelled(lines, classes, judged)
        if not labels:
            _warn_of_pairs(path, lines)
    return tuple(line.item(classes if labels else None) for line in lines)


def stream_texts(lines: Iterable[bytes], name: str) -> Iterator[TextItem]:
    """Texts of UTF-8 lines as they come, without labels; an empty line is an empty text.

    Raises:
        CalibrationError: as `read_texts`, when the line is reached; it calls the source `name`.
    """
    for line in _lines(lines, name, None):
        yield TextItem("") if line is None else line.item(None)


def plain_text(line: str) -> TextItem:
    """The text of one line that is not JSON; a CalibrationError says what is wrong with it."""
    return _Line("", tuple(line.split("\t"))).item(None) if line.strip() else TextItem("")


def check_amount(path: Path, items: Sequence[TextItem]) -> None:
    """Warn of few calibration texts; a CalibrationError says that there are too few."""
    if len(items) < MINIMUM_TEXTS:
        raise CalibrationError(
            f"{path}: {len(items)} examples; give at least {MINIMUM_TEXTS}, better some hundreds"
        )
    if len(items) < FEW_TEXTS:
        message = f"only {len(items)} examples; thresholds are steadier with some hundreds"
        warnings.warn(f"{path}: {message}", stacklevel=2)


def split_texts(items: Sequence[TextItem]) -> tuple[tuple[TextItem, ...], tuple[TextItem, ...]]:
    """Divide texts into those to calibrate with and those held back for judging the result.

    The texts with the smallest SHA-256 are held back: the order of the file does not matter, all
    copies of a text land in one part, and both parts keep the order of the file. No part is empty.
    A CalibrationError says that all texts are the same.
    """
    # The label is no part of a key: a text labelled twice must not land in both parts.
    parts = ([item.text, *(item.second or (None,))] for item in items)
    keys = [hashlib.sha256(json.dumps(item).encode()).digest() for item in parts]
    ranked = sorted(set(keys))
    if len(ranked) < 2:
        raise CalibrationError("all calibration texts are the same; give different ones")
    count = min(max(round(HELD_BACK * len(ranked)), 1), len(ranked) - 1)
    held = set(ranked[:count])
    used = tuple(item for key, item in zip(keys, items, strict=True) if key not in held)
    return used, tuple(item for key, item in zip(keys, items, strict=True) if key in held)


@dataclass(frozen=True)
class _Line:
    """A line that is not blank: its parts, the label among them only in plain text."""

    where: str
    parts: tuple[str, ...]
    json: bool = False
    label: str | None = None

    def item(self, classes: Classes | None) -> TextItem:
        parts, label = self.parts, self.label
        if classes is not None and not self.json:
            most = len(parts) if classes.of_choices else 3
            if not 2 <= len(parts) <= most or not parts[-1].strip():
                self.fail("expected text<TAB>label or text<TAB>text<TAB>label")
            parts, label = parts[:-1], parts[-1].strip()
        text, *second = parts
        while second and not second[-1].strip():
            second.pop()
        if not text.strip():
            self.fail("no text before the tab")
        for number, part in enumerate(second, 2):
            if not part.strip():
                self.fail(f"part {number} is empty")
        if classes is None:
            return TextItem(text, tuple(second))
        if label is None:
            self.fail('"label" is missing')
        index = classes.index(label, len(second))
        if index is None:
            self.fail(classes.refusal(label, len(second)))
        return TextItem(text, tuple(second), index)

    def fail(self, message: str) -> NoReturn:
        raise CalibrationError(f"{self.where}: {message}" if self.where else message)


def _lines(source: Iterable[bytes], name: str, jsonl: bool | None) -> Iterator[_Line | None]:
    """The lines, None for a blank one. Only a line feed ends one: others of Unicode's are text.

    Without `jsonl` the first line says whether they are JSON.
    """
    for number, raw in enumerate(source, 1):
        where = f"{name}, line {number}"
        if b"\0" in raw:
            raise CalibrationError(f"{where}: binary data; give UTF-8 text, one example per line")
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            reason = f"not UTF-8 ({error.reason}); save the text as UTF-8"
            raise CalibrationError(f"{where}: {reason}") from None
        line = line.removesuffix("\n").removesuffix("\r")
        if not line.strip():
            yield None
            continue
        if jsonl is None:
            jsonl = begins_jsonl(line)
        yield _json_line(where, line) if jsonl else _Line(where, tuple(line.split("\t")))


def begins_jsonl(line: str) -> bool:
    """Whether a file that begins with this line is one of JSON lines, whatever its name."""
    try:
        value = json.loads(line) if line.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and "text" in value


def _json_line(where: str, line: str) -> _Line:
    found = _Line(where, (), json=True)
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        found.fail(f"not JSON ({error})")
    if isinstance(value, str):
        value = {"text": value}
    if not isinstance(value, dict):
        found.fail('expected a JSON string or an object with "text"')
    try:
        text, second = row_texts(value)
    except CalibrationError as error:
        found.fail(str(error))
    if not text.strip():
        found.fail(f'"text" is {text!r}; expected a text')
    label = value.get("label")
    if isinstance(label, (bool, float, list, dict)) or label == "":
        found.fail(f'"label" is {label!r}; expected a name or an index')
    label = None if label is None else str(label)
    return _Line(where, (text, *second), json=True, label=label)


def _all_labelled(lines: Sequence[_Line], classes: Classes, judged: bool) -> bool:
    """Whether every line has a label, each of them known."""
    unknown = None
    for line in lines:
        label, choices = line.label, len(line.parts) - 1
        # A choice may well end with a number: choices in plain text have labels if one says so.
        if not line.json and not classes.of_choices and 2 <= len(line.parts) <= 3:
            label = line.parts[-1].strip()
        if label is None:
            return False
        if classes.index(label, choices) is None and unknown is None:
            unknown = f"{line.where}: {classes.refusal(label, choices)}"
    if unknown is not None and lines[0].json:
        if judged:
            way_out = "mend the labels or take them out (parity: --no-labels)"
            raise CalibrationError(f"{unknown}; {way_out}")
        warnings.warn(f"{unknown}; no label of the file is used", stacklevel=3)
    return unknown is None


def _warn_of_pairs(path: Path, lines: Sequence[_Line]) -> None:
    endings = {line.parts[-1] if len(line.parts) == 2 else None for line in lines}
    few = len(endings) <= min(_FEW_LABELS, len(lines) // 2)
    if few and None not in endings and not lines[0].json:
        warnings.warn(
            f"{path}: every line ends with a tab and one of {len(endings)} words, read as the "
            "second text of a pair; a label is the name or index of a class of the model",
            stacklevel=3,
        )
