"""Files of texts as a model takes them: labels are its classes, and errors are the user's."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from calibration.calibration_error import CalibrationError
from calibration.texts import Classes, TextItem, check_amount, read_texts, stream_texts
from exporter.demo import calibration_file
from exporter.errors import InputError
from exporter.metrics.decisions import Decision, decision_of
from exporter.model.model_shape import ModelShape
from exporter.model.task import Task


def demo_texts() -> Path:
    """The texts that are used when none are given."""
    return calibration_file()


def model_texts(
    path: Path, shape: ModelShape, labels: bool | None = None, judged: bool = False
) -> tuple[TextItem, ...]:
    """The texts of UTF-8 text or JSONL (docs/texts.md), with their classes where the file says.

    Classes are the model's, by name or by index; `labels` says whether every text has one, None
    finds out; `judged` that answers are compared with them, so that an unknown one of JSONL is an
    error. Raises InputError when the file is unusable, the model gives a text no single class, or a
    label is none of its own.
    """
    classes = None
    if shape.task is Task.MULTIPLE_CHOICE:
        classes = Classes(None)
    elif shape.task is Task.SEQUENCE_CLASSIFICATION and decision_of(shape) is Decision.ARGMAX:
        classes = Classes(shape.id2label)
    elif labels:
        labelled = f"labels, but {shape.task} has not one class for each text"
        raise InputError(f"{path}: {labelled}; leave out --labels (build: --calibration-labels)")
    with calibration_errors():
        return read_texts(path, classes, labels, judged)


def calibration_texts(
    path: Path | None, shape: ModelShape, *, labels: bool = False
) -> tuple[TextItem, ...]:
    """The texts of --calibration-data, or the demo's; labels only where they are asked for.

    Raises InputError as `model_texts` does, or for too few.
    """
    chosen = path or demo_texts()
    try:
        items = model_texts(chosen, shape, labels or None)
        with calibration_errors():
            check_amount(chosen, items)
    except InputError as error:
        raise InputError(f"--calibration-data: {error}") from None
    return items


def arriving_texts(stream: BufferedReader, most: int) -> Iterator[list[TextItem]]:
    """The texts of stdin, in lists of those that have come together, `most` at once.

    So a line is given on when nothing follows it yet, and a fast stream in lists that fill batches.
    Raises InputError at a line that is no text, after what came before it.
    """
    lines = _ArrivingLines(stream)
    texts = stream_texts(lines, "stdin")
    group: list[TextItem] = []
    with calibration_errors():
        try:
            for item in texts:
                group.append(item)
                if len(group) == most or not lines.waiting:
                    yield group
                    group = []
        except CalibrationError:
            yield group
            raise


class _ArrivingLines:
    """The lines of a stream; `waiting` are those that have come and were not taken."""

    def __init__(self, stream: BufferedReader) -> None:
        self._stream = stream
        self.waiting: deque[bytes] = deque()

    def __iter__(self) -> Iterator[bytes]:
        begun: list[bytes] = []
        while chunk := self._stream.read1(1 << 16):
            first, *rest = chunk.split(b"\n")
            begun.append(first)
            if not rest:
                continue
            self.waiting += [b"".join(begun), *rest[:-1]]
            begun = rest[-1:]
            while self.waiting:
                yield self.waiting.popleft()
        if any(begun):
            yield b"".join(begun)


def file_texts(path: Path) -> Iterator[TextItem]:
    """The texts of a file as they are needed; InputError where it, or a line, cannot be read."""
    try:
        with path.open("rb") as file, calibration_errors():
            yield from stream_texts(file, str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


@contextmanager
def calibration_errors() -> Iterator[None]:
    """Errors of `calibration` are the user's: a CalibrationError becomes an InputError."""
    try:
        yield
    except CalibrationError as error:
        raise InputError(str(error)) from None
