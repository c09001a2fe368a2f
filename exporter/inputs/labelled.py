"""Texts, with or without labels, from files of the user."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from calibration.errors import CalibrationError
from calibration.texts import read_examples
from exporter.errors import InputError
from exporter.inputs.encode import TextInput, parse_line
from exporter.metrics.decisions import Decision, decision_of
from exporter.model.model_shape import ModelShape
from exporter.model.task import Task

_MAX_TEXT_BYTES = 1 << 26
_JSON_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class LabelledTexts:
    """Texts, and the class of each where the file says."""

    texts: tuple[TextInput, ...]
    labels: tuple[int, ...] | None = None


def read_texts(path: Path) -> tuple[TextInput, ...]:
    """The texts of a UTF-8 file, one a line, a tab between the parts of a pair.

    Empty lines are skipped.

    Raises:
        InputError: the file is missing, too large, not UTF-8 text, or has no text.
    """
    return tuple(parse_line(line) for _, line in _lines(path))


def read_labelled(path: Path, shape: ModelShape, labels: bool | None = None) -> LabelledTexts:
    """The texts of a file with their classes: `text<TAB>label`, `text<TAB>text<TAB>label`, JSONL.

    Args:
        path: UTF-8 text, or JSONL with `text`, `text_pair` and `label`.
        shape: the model, whose labels count: by name or by index.
        labels: whether the last column is a label. None finds out: it is where the model gives a
            text one class, and every line ends with a name or an index of it.

    Raises:
        InputError: the file is unusable, the model gives a text no single class, or a label is
            none of its own.
    """
    one_class = shape.task is Task.MULTIPLE_CHOICE or (
        shape.task is Task.SEQUENCE_CLASSIFICATION and decision_of(shape) is Decision.ARGMAX
    )
    if labels and not one_class:
        raise InputError(
            f"{path}: labels for {shape.task}, which gives a text no single class; "
            "leave out --labels"
        )
    if path.suffix.lower() in _JSON_LINES:
        return _read_json_lines(path, shape, labels, one_class)
    lines = list(_lines(path))
    if labels is None:
        # A choice may well end with a number: prompts with choices are labelled where one says so.
        known = _classes(shape) if one_class and shape.task is not Task.MULTIPLE_CHOICE else {}
        labels = bool(known) and all(_ending(line) in known for _, line in lines)
    if not labels:
        return LabelledTexts(tuple(parse_line(line) for _, line in lines))
    texts, classes = [], []
    for number, line in lines:
        text, tab, label = line.rpartition("\t")
        if not tab or not text.strip():
            raise InputError(f"{path}, line {number}: no label; expected text<TAB>label")
        item = parse_line(text)
        texts.append(item)
        classes.append(_class_of(f"{path}, line {number}", label.strip(), shape, item))
    return LabelledTexts(tuple(texts), tuple(classes))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbers and texts of the lines that are not empty."""
    try:
        if path.stat().st_size > _MAX_TEXT_BYTES:
            raise InputError(f"{path}: larger than {_MAX_TEXT_BYTES >> 20} MiB; give fewer texts")
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); one text a line") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if "\0" in content:
        raise InputError(f"{path}: binary data, not text; one text a line")
    lines = [(n, line) for n, line in enumerate(content.splitlines(), 1) if line.strip()]
    if not lines:
        raise InputError(f"{path}: no texts; one text a line")
    yield from lines


def _read_json_lines(
    path: Path, shape: ModelShape, labels: bool | None, one_class: bool
) -> LabelledTexts:
    try:
        examples = read_examples(path, labels=bool(labels), form="jsonl", minimum=1).examples
    except CalibrationError as error:
        raise InputError(str(error)) from None
    texts = tuple(item.text if item.pair is None else (item.text, item.pair) for item in examples)
    with_label = [item.label for item in examples if item.label is not None]
    if labels is False or not one_class or len(with_label) < len(examples):
        return LabelledTexts(texts)
    classes = (
        _class_of(f"{path}, example {number}", label, shape, text)
        for number, (label, text) in enumerate(zip(with_label, texts, strict=True), 1)
    )
    return LabelledTexts(texts, tuple(classes))


def _ending(line: str) -> str | None:
    _, tab, label = line.rpartition("\t")
    return label.strip() if tab else None


def _classes(shape: ModelShape) -> dict[str, int]:
    """Index of each class by its name and by its number."""
    names = shape.id2label
    numbers = {str(index): index for index in range(shape.num_labels)}
    return {**numbers, **{name: index for index, name in names.items()}}


def _class_of(where: str, label: str, shape: ModelShape, item: TextInput) -> int:
    if shape.task is Task.MULTIPLE_CHOICE:
        choices = len(item[1]) if not isinstance(item, str) and not isinstance(item[1], str) else 0
        if not label.isdecimal() or int(label) >= choices:
            raise InputError(f"{where}: label {label!r}; expected 0 to below {choices} choices")
        return int(label)
    known = _classes(shape)
    if label not in known:
        raise InputError(f"{where}: label {label!r}; the model has {_listed(shape)}")
    return known[label]


def _listed(shape: ModelShape, most: int = 10) -> str:
    names: Sequence[str] = [shape.id2label[i] for i in sorted(shape.id2label)]
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
