"""Calibration text from a file of the user, and its split into two parts.

docs/calibration.md describes the formats.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from calibration.errors import CalibrationError

Format = Literal["auto", "text", "jsonl"]

MINIMUM_EXAMPLES = 8
"""Fewer cannot show a distribution, nor be split."""
FEW_EXAMPLES = 64
"""Below it thresholds still vary with the choice of the examples, and a warning says so."""
HELD_BACK = 0.25

_JSON_LINES = (".jsonl", ".ndjson")
_PAIR_KEYS = ("text_pair", "pair")
_FEW_LABELS = 20  # so many distinct words after a tab are classes rather than texts


@dataclass(frozen=True)
class Example:
    """One text, or pair of texts, with its label if the file has one."""

    text: str
    pair: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class CalibrationData:
    """What was read.

    Attributes:
        examples: in the order of the file.
        blank_lines: lines that were skipped because they are empty.
        warnings: what the user should know, one sentence each.
    """

    examples: tuple[Example, ...]
    blank_lines: int = 0
    warnings: tuple[str, ...] = ()


def read_examples(
    path: Path,
    *,
    labels: bool = False,
    form: Format = "auto",
    minimum: int = MINIMUM_EXAMPLES,
) -> CalibrationData:
    """Read UTF-8 text, one example per line.

    Args:
        path: plain text, or JSONL.
        labels: whether every example must have a label. Then the last of two or three columns
            with tabs between is the label; without it a tab begins the second text of a pair.
        form: `auto` is JSONL for .jsonl and .ndjson, and for a file that begins with a JSON
            object that has a `text`.
        minimum: fewer examples are an error.

    Raises:
        CalibrationError: the file is missing, empty, binary or not UTF-8, a line is malformed, or
            there are too few examples; the message names the line.
    """
    blank = 0
    lines: list[tuple[int, str]] = []
    for number, line in _lines(path):
        if line.strip():
            lines.append((number, line))
        else:
            blank += 1
    if not lines:
        raise CalibrationError(f"{path} is empty; give one text per line")
    reader = _Reader(path, labels)
    if form == "jsonl" or (form == "auto" and _is_jsonl(path, lines[0][1])):
        examples = tuple(reader.json_line(number, line) for number, line in lines)
        warnings = []
    else:
        examples = tuple(item for number, line in lines for item in reader.text_line(number, line))
        warnings = [] if labels else _tab_warnings(path, examples)
    if len(examples) < minimum:
        raise CalibrationError(
            f"{path}: {len(examples)} examples; give at least {minimum}, better some hundreds"
        )
    if len(examples) < FEW_EXAMPLES:
        warnings.append(
            f"{path}: only {len(examples)} examples; thresholds are steadier with some hundreds"
        )
    return CalibrationData(examples, blank, tuple(warnings))


def split_examples(
    examples: Sequence[Example], held_back: float = HELD_BACK
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Divide examples into calibration text and held-back text for judging the result.

    The texts with the smallest SHA-256 are held back: the order of the file does not matter, all
    copies of a text land in one part, and both parts keep the order of the file.

    Args:
        examples: at least two different texts.
        held_back: share of the different texts, above 0 and below 1; at least one text is held
            back and one is not.

    Raises:
        CalibrationError: all texts are the same, or the share is out of range.
    """
    if not 0 < held_back < 1:
        raise CalibrationError(f"held-back share {held_back}; give one above 0 and below 1")
    keys = [_text_key(example) for example in examples]
    ranked = sorted(set(keys))
    if len(ranked) < 2:
        raise CalibrationError("all calibration texts are the same; give different ones")
    count = min(max(round(held_back * len(ranked)), 1), len(ranked) - 1)
    held = set(ranked[:count])
    pairs = list(zip(keys, examples, strict=True))
    return (
        tuple(example for key, example in pairs if key not in held),
        tuple(example for key, example in pairs if key in held),
    )


def _text_key(example: Example) -> bytes:
    # The label is no part of it: a text labelled twice must not land in both parts.
    return hashlib.sha256(json.dumps([example.text, example.pair]).encode()).digest()


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers and lines. Only a line feed ends one: others of Unicode's are text."""
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if b"\0" in raw:
                    raise CalibrationError(
                        f"{path}, line {number}: binary data; give UTF-8 text, one example per line"
                    )
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                yield number, line.rstrip("\r\n")
    except OSError as error:
        raise CalibrationError(
            f"cannot read the calibration text {path}: {error.strerror}"
        ) from error
    except UnicodeDecodeError as error:
        raise CalibrationError(
            f"{path}, line {number}: not UTF-8 ({error.reason}); save the text as UTF-8"
        ) from error


def _is_jsonl(path: Path, first: str) -> bool:
    if path.suffix.lower() in _JSON_LINES:
        return True
    if not first.lstrip().startswith("{"):
        return False
    try:
        value = json.loads(first)
    except ValueError:
        return False
    return isinstance(value, dict) and "text" in value


def _tab_warnings(path: Path, examples: Sequence[Example]) -> list[str]:
    """Whether the text looks as if it had labels that nobody asked for."""
    endings = {example.pair for example in examples}
    if None in endings or len(endings) > min(_FEW_LABELS, len(examples) // 2):
        return []
    return [
        f"{path}: every line ends with a tab and one of {len(endings)} words, read as the second "
        "text of a pair; if they are labels, say so"
    ]


@dataclass(frozen=True)
class _Reader:
    """Makes examples of lines; every message names the line."""

    path: Path
    labels: bool

    def text_line(self, number: int, line: str) -> list[Example]:
        text, *rest = line.split("\t")
        if not text.strip():
            self.fail(number, "no text before the tab")
        if not self.labels:
            # A prompt with several choices is as many pairs.
            return [Example(text, second) for second in rest if second.strip()] or [Example(text)]
        if len(rest) not in (1, 2) or not rest[-1].strip():
            self.fail(number, "expected text<TAB>label or text<TAB>text<TAB>label")
        return [Example(text, rest[0] if len(rest) == 2 else None, rest[-1].strip())]

    def json_line(self, number: int, line: str) -> Example:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            self.fail(number, f"not JSON ({error})")
        if isinstance(value, str):
            value = {"text": value}
        if not isinstance(value, dict):
            self.fail(number, 'expected a JSON string or an object with "text"')
        text = value.get("text")
        if not isinstance(text, str) or not text.strip():
            self.fail(number, f'"text" is {text!r}; expected a text')
        pair = next((value[key] for key in _PAIR_KEYS if value.get(key) is not None), None)
        if pair is not None and not isinstance(pair, str):
            self.fail(number, f"the pair is {pair!r}; expected a text")
        return Example(text, pair, self.label(number, value.get("label")))

    def label(self, number: int, label: object) -> str | None:
        if label is None:
            if self.labels:
                self.fail(number, '"label" is missing')
            return None
        if isinstance(label, bool) or not isinstance(label, (str, int)) or label == "":
            self.fail(number, f'"label" is {label!r}; expected a name or an index')
        return str(label)

    def fail(self, number: int, message: str) -> NoReturn:
        raise CalibrationError(f"{self.path}, line {number}: {message}")
