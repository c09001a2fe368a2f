"""A file of texts means the same to every command."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calibration.texts import FEW_TEXTS, TextItem
from exporter.bench.bench_config import BenchConfig
from exporter.bench.workloads import make_inputs
from exporter.deberta.configuration import DebertaConfig
from exporter.errors import InputError
from exporter.inputs.cases import CaseMaker
from exporter.inputs.data_sets import DataOptions, make_data_sets
from exporter.inputs.encode import as_item
from exporter.inputs.text_files import arriving_texts, calibration_texts, model_texts
from exporter.model.model_shape import ModelShape
from exporter.model.profile import Range
from exporter.model.task import Task
from exporter.pipeline.config import BuildConfig
from exporter.pipeline.source import open_source, open_texts
from exporter.runtime.load import text_encoder

MakeCheckpoint = Callable[..., Path]
ODD = "one\u2028text\x0cwith\x85breaks\rin it"


def shape_of(folder: Path, task: Task) -> ModelShape:
    return DebertaConfig.from_folder(folder).shape(task)


def write(path: Path, lines: list[str], start: bytes = b"", end: str = "\n") -> Path:
    path.write_bytes(start + "".join(line + end for line in lines).encode())
    return path


def as_json(item: tuple[str, str | None, object]) -> str:
    return json.dumps(dict(zip(("text", "text_pair", "label"), item, strict=True)))


ROWS = [(f"{ODD} {n}", None if n % 2 else f"second {n}", ("label_1", 0)[n % 2]) for n in range(70)]
WANTED = [
    TextItem(text, () if pair is None else (pair,), int(label == "label_1"))
    for text, pair, label in ROWS
]
TSV = ["\t".join(str(part) for part in row if part is not None) for row in ROWS]
FILES = {
    "texts.tsv": (TSV, b"", "\n"),
    "windows.txt": (TSV, b"\xef\xbb\xbf", "\r\n"),
    "blank.txt": ([*TSV[:3], "", " ", *TSV[3:]], b"", "\n"),
    "texts.jsonl": ([as_json(row) for row in ROWS], b"\xef\xbb\xbf", "\r\n"),
    "texts.ndjson": ([as_json(row) for row in ROWS], b"", "\n"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_means_the_same_to_every_command(
    name: str, make_checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_checkpoint("sequence-classification")
    shape = shape_of(folder, Task.SEQUENCE_CLASSIFICATION)
    lines, start, end = FILES[name]
    path = write(tmp_path / name, lines, start, end)
    assert list(model_texts(path, shape)) == WANTED

    seen: list[tuple[tuple[str, ...], int | None]] = []
    count = CaseMaker.texts

    def watched(self: CaseMaker, name: str, number: int) -> object:
        seen.extend(
            ((item.text, *item.second), item.label)
            for item in (self._source(i, None) for i in range(number))
        )
        return count(self, name, number)

    monkeypatch.setattr(CaseMaker, "texts", watched)
    expected = [((item.text, *item.second), item.label) for item in WANTED]
    encoder = text_encoder(folder, shape.task, 160)
    make_data_sets(shape, encoder, DataOptions((path,), lengths=()), 160)  # parity --data
    assert seen == expected
    seen.clear()
    source = open_source(BuildConfig(folder))
    config = BuildConfig(data=path, calibration_data=path, precision="fp16")
    given = open_texts(source, config)
    assert seen == expected
    assert list(given.calibration) == WANTED

    class Manifest:
        seq = Range(1, 16, 160)

    bench = BenchConfig(folder, shapes=(), data=path)
    (timed,), _ = make_inputs(bench, Manifest, shape, encoder)  # type: ignore[arg-type]
    assert [as_item(text) for text in timed.texts] == WANTED


def test_labels_of_a_build_are_judged(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    path = write(tmp_path / "texts.jsonl", [as_json(row) for row in ROWS])
    source = open_source(BuildConfig(make_checkpoint("sequence-classification")))
    _, texts = open_texts(source, BuildConfig(data=path)).data_sets
    assert [label for case in texts.cases for label in case.labels or ()] == [
        item.label for item in WANTED
    ]


def piped(stream: Any) -> list[TextItem]:
    return [item for group in arriving_texts(stream, 1024) for item in group]


def test_lines_are_given_on_in_the_groups_that_they_come_in() -> None:
    chunks = [b"one\ntw", b"o\nthree\n", b"fo", b"ur"]
    long = "x" * 100_000

    class Pipe(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            return chunks.pop(0) if chunks else b""

    groups = arriving_texts(Pipe(), 2)  # type: ignore[arg-type]
    assert [item.text for item in next(groups)] == ["one"]
    assert len(chunks) == 3, "it read on before it gave what it had"
    assert [item.text for item in next(groups)] == ["two", "three"]
    assert [item.text for item in next(groups)] == ["four"]
    assert next(groups, None) is None
    lines = f"{long}\n".encode() * 5
    found = list(arriving_texts(io.BytesIO(lines), 2))  # type: ignore[arg-type]
    assert [len(group) for group in found] and sum(map(len, found)) == 5
    assert {item.text for group in found for item in group} == {long}


def test_what_came_before_a_bad_line_is_given_first() -> None:
    groups = arriving_texts(io.BytesIO(b"one\ntwo\n\xff\nfour\n"), 1024)  # type: ignore[arg-type]
    assert [item.text for item in next(groups)] == ["one", "two"]
    with pytest.raises(InputError, match="stdin, line 3: not UTF-8"):
        next(groups)


def test_stdin_is_read_by_the_same_rule() -> None:
    stream = io.BytesIO(f"\ufeff{ODD}\r\n\na\tb\tc\n".encode())
    assert piped(stream) == [TextItem(ODD), TextItem(""), TextItem("a", ("b", "c"))]
    stream = io.BytesIO(b'{"text": "a", "text_pair": "b"}\n"c"\n')
    assert piped(stream) == [TextItem("a", ("b",)), TextItem("c")]
    with pytest.raises(InputError, match="stdin, line 1: binary data"):
        piped(io.BytesIO(b"\0\n"))


def test_choices_are_read_from_both_forms(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    shape = shape_of(make_checkpoint("multiple-choice"), Task.MULTIPLE_CHOICE)
    wanted = (TextItem("p", ("x", "y"), 1), TextItem("q", ("x", "y", "z"), 0))
    lines = [
        json.dumps({"text": item.text, "choices": item.second, "label": item.label})
        for item in wanted
    ]
    assert model_texts(write(tmp_path / "a.jsonl", lines), shape) == wanted
    path = write(tmp_path / "a.tsv", ["p\tx\ty\t1", "q\tx\ty\tz\t0"])
    assert model_texts(path, shape, True) == wanted


def test_labels_need_one_class_for_each_text(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    shape = shape_of(make_checkpoint("base"), Task.BASE)
    path = write(tmp_path / "texts.txt", ["one\t0", "two\t1"])
    with pytest.raises(InputError, match="has not one class for each text; leave out --labels"):
        model_texts(path, shape, True)
    assert model_texts(path, shape) == (TextItem("one", ("0",)), TextItem("two", ("1",)))


def test_labels_that_the_model_does_not_have(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    shape = shape_of(make_checkpoint(), Task.SEQUENCE_CLASSIFICATION)
    path = write(tmp_path / "texts.txt", ["one\t0", "two\tmaybe"])
    with pytest.raises(InputError, match=r"line 2: label 'maybe': the model's labels are LABEL_0"):
        model_texts(path, shape, True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n\t\n", "is empty"),
        (b"ab\xff\xfe", "line 1: not UTF-8"),
        (b"text\0more", "line 1: binary data"),
        (b"one\n", "1 examples; give at least 8"),
    ],
)
def test_unusable_text_files_are_refused(
    content: bytes, message: str, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    shape = shape_of(make_checkpoint(), Task.SEQUENCE_CLASSIFICATION)
    path = tmp_path / "texts.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"--calibration-data: .*{message}"):
        calibration_texts(path, shape)


def test_few_calibration_texts_draw_a_warning(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    shape = shape_of(make_checkpoint(), Task.SEQUENCE_CLASSIFICATION)
    path = write(tmp_path / "texts.txt", [f"text {n}" for n in range(FEW_TEXTS - 1)])
    with pytest.warns(UserWarning, match="only 63 examples"):
        calibration_texts(path, shape)
