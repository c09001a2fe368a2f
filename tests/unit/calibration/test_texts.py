"""Reading calibration text and splitting it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from calibration.errors import CalibrationError
from calibration.texts import (
    FEW_EXAMPLES,
    MINIMUM_EXAMPLES,
    CalibrationData,
    Example,
    read_examples,
    split_examples,
)


def read(folder: Path, content: str | bytes, name: str = "text.txt", **options: object) -> object:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    options.setdefault("minimum", 1)
    return read_examples(path, **options)  # type: ignore[arg-type]


def examples(folder: Path, content: str | bytes, **options: object) -> tuple[Example, ...]:
    data = read(folder, content, **options)
    assert isinstance(data, CalibrationData)
    return data.examples


def test_a_line_is_a_text_and_blank_lines_are_counted(tmp_path: Path) -> None:
    data = read_examples_of(tmp_path, "one\n\n  two \r\n \t \nthree")
    assert data.examples == (Example("one"), Example("  two "), Example("three"))
    assert data.blank_lines == 2


def read_examples_of(folder: Path, content: str) -> CalibrationData:
    path = folder / "text.txt"
    path.write_bytes(content.encode())
    return read_examples(path, minimum=1)


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    text = "a\u2028b\x0bc\x85d\x1ce"
    assert examples(tmp_path, text + "\nnext") == (Example(text), Example("next"))


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    assert examples(tmp_path, b"\xef\xbb\xbfone\ntwo") == (Example("one"), Example("two"))


def test_a_tab_begins_the_second_text(tmp_path: Path) -> None:
    found = examples(tmp_path, "one\ntwo\tparts\nprompt\tfirst\tsecond\nopen\t\n")
    assert found == (
        Example("one"),
        Example("two", "parts"),
        Example("prompt", "first"),
        Example("prompt", "second"),
        Example("open"),
    )


def test_the_last_column_is_the_label_when_labels_are_wanted(tmp_path: Path) -> None:
    found = examples(tmp_path, "fine\t 1\r\nquestion\tanswer\tno\n", labels=True)
    assert found == (Example("fine", None, "1"), Example("question", "answer", "no"))


@pytest.mark.parametrize("line", ["no label", "a\tb\tc\td", "empty\t ", "\tlabel"])
def test_a_line_without_label_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(CalibrationError, match=r"text\.txt, line 3"):
        read(tmp_path, f"fine\t1\n\n{line}\n", labels=True)


def test_labels_that_were_not_asked_for_are_pointed_out(tmp_path: Path) -> None:
    lines = [f"sentence {index}\t{index % 3}" for index in range(FEW_EXAMPLES)]
    (warning,) = read_examples_of(tmp_path, "\n".join(lines)).warnings
    assert "3 words" in warning
    pairs = [f"question {index}\tanswer {index}" for index in range(FEW_EXAMPLES)]
    assert read_examples_of(tmp_path, "\n".join(pairs)).warnings == ()
    mixed = ["no tab", *lines]
    assert read_examples_of(tmp_path, "\n".join(mixed)).warnings == ()


def test_jsonl(tmp_path: Path) -> None:
    rows = [
        {"text": "one"},
        "two",
        {"text": "three", "pair": "other", "label": 2, "more": [1]},
        {"text": "four", "text_pair": "other", "label": "good"},
        {"text": "five", "text_pair": None, "label": None},
    ]
    content = "\n\n".join(json.dumps(row) for row in rows)
    expected = (
        Example("one"),
        Example("two"),
        Example("three", "other", "2"),
        Example("four", "other", "good"),
        Example("five"),
    )
    assert examples(tmp_path, content, name="data.jsonl") == expected
    assert examples(tmp_path, content, name="data.txt") == expected  # it begins with an object
    assert examples(tmp_path, content, name="data.txt", form="jsonl") == expected


def test_text_that_only_looks_like_json_is_text(tmp_path: Path) -> None:
    for line in ('"quoted"', "{braces}", '{"key": 1}', "[1]"):
        assert examples(tmp_path, line) == (Example(line),)
    line = '{"text": "x"}'
    assert examples(tmp_path, line, form="text") == (Example(line),)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[" * 10**5, "not JSON"),
        ("[]", "expected a JSON string"),
        ("1", "expected a JSON string"),
        ('{"label": 1}', '"text" is None'),
        ('{"text": 5}', '"text" is 5'),
        ('{"text": "  "}', '"text" is'),
        ('{"text": "a", "pair": 1}', "the pair is 1"),
        ('{"text": "a", "label": 0.5}', '"label" is 0.5'),
        ('{"text": "a", "label": true}', '"label" is True'),
        ('{"text": "a", "label": ""}', '"label" is'),
        ('{"text": "a"}', '"label" is missing'),
    ],
)
def test_a_malformed_json_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(CalibrationError, match=r"data\.jsonl, line 2: ") as error:
        read(tmp_path, f'{{"text": "x", "label": 0}}\n{line}', name="data.jsonl", labels=True)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"fine\nab\0c\n", "line 2: binary"),
        ("text".encode("utf-16"), "line 1: binary"),
        (b"fine\n\ncaf\xe9\n", "line 3: not UTF-8"),
        (b"\xff\xfe", "line 1: not UTF-8"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        read(tmp_path, content)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="cannot read"):
        read_examples(tmp_path / "none.txt")
    with pytest.raises(CalibrationError, match="cannot read"):
        read_examples(tmp_path)


def test_too_few_examples_are_an_error_and_few_a_warning(tmp_path: Path) -> None:
    lines = [f"sentence {index}" for index in range(FEW_EXAMPLES)]
    path = tmp_path / "text.txt"
    path.write_text("\n".join(lines[: MINIMUM_EXAMPLES - 1]))
    with pytest.raises(CalibrationError, match=f"7 examples; give at least {MINIMUM_EXAMPLES}"):
        read_examples(path)
    path.write_text("\n".join(lines[:MINIMUM_EXAMPLES]))
    (warning,) = read_examples(path).warnings
    assert "only 8 examples" in warning
    path.write_text("\n".join(lines))
    assert read_examples(path).warnings == ()


def test_the_split_depends_on_the_texts_alone() -> None:
    source = [Example(f"text {index}", None, str(index % 2)) for index in range(101)]
    kept, held = split_examples(source, 0.25)
    assert len(held) == 25
    assert sorted((*kept, *held), key=source.index) == source
    assert list(kept) == sorted(kept, key=source.index)

    shuffled = random.Random(3).sample(source, len(source))
    assert set(split_examples(shuffled, 0.25)[1]) == set(held)


def test_copies_of_a_text_land_in_one_part() -> None:
    source = [Example(f"text {index % 40}", None, str(index)) for index in range(200)]
    source += [Example("text 1", "with a pair")]
    kept, held = split_examples(source)
    assert not {(e.text, e.pair) for e in kept} & {(e.text, e.pair) for e in held}
    assert len(kept) + len(held) == 201


@pytest.mark.parametrize("count", [2, 3, 8, 9])
@pytest.mark.parametrize("share", [0.001, 0.2, 0.999])
def test_no_part_is_empty(count: int, share: float) -> None:
    kept, held = split_examples([Example(str(index)) for index in range(count)], share)
    assert kept
    assert held


def test_what_cannot_be_split_is_refused() -> None:
    with pytest.raises(CalibrationError, match="are the same"):
        split_examples([Example("x"), Example("x")])
    for share in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(CalibrationError, match="held-back share"):
            split_examples([Example("x"), Example("y")], share)
