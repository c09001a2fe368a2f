"""The one reader of texts, and the split of calibration text."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from calibration import texts
from calibration.calibration_error import CalibrationError
from calibration.texts import (
    FEW_TEXTS,
    MINIMUM_TEXTS,
    Classes,
    TextItem,
    check_amount,
    read_texts,
    split_texts,
    stream_texts,
)

FILM = Classes({0: "Bad", 1: "good", 2: "Good", 3: "3 stars", 4: "1"})


def read(
    folder: Path, content: str | bytes, name: str = "text.txt", **options: object
) -> tuple[TextItem, ...]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_texts(path, **options)  # type: ignore[arg-type]


def test_a_line_is_a_text_and_blank_lines_are_left_out(tmp_path: Path) -> None:
    found = read(tmp_path, "one\n\n  two \r\n \t \nthree")
    assert found == (TextItem("one"), TextItem("  two "), TextItem("three"))


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    text = "a\u2028b\x0bc\x85d\x1ce\x0cf\rg"
    assert read(tmp_path, text + "\r\nnext") == (TextItem(text), TextItem("next"))


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    assert read(tmp_path, b"\xef\xbb\xbfone\ntwo") == (TextItem("one"), TextItem("two"))


def test_tabs_part_a_line(tmp_path: Path) -> None:
    found = read(tmp_path, "one\ntwo\tparts\nprompt\tfirst\tsecond\nopen\t\n")
    assert found == (
        TextItem("one"),
        TextItem("two", ("parts",)),
        TextItem("prompt", ("first", "second")),
        TextItem("open"),
    )


@pytest.mark.parametrize(
    ("line", "message"), [("\ttext", "no text before the tab"), ("a\t\tb", "part 2 is empty")]
)
def test_an_empty_part_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(CalibrationError, match=rf"text\.txt, line 2: {message}"):
        read(tmp_path, f"fine\n{line}\n")


def test_the_last_column_is_the_label_when_labels_are_wanted(tmp_path: Path) -> None:
    found = read(tmp_path, "fine\t 1\r\nquestion\tanswer\tBad\na\t\t0", classes=FILM, labels=True)
    assert found == (
        TextItem("fine", (), 4),
        TextItem("question", ("answer",), 0),
        TextItem("a", (), 0),
    )


@pytest.mark.parametrize("line", ["no label", "a\tb\tc\t1", "empty\t ", "\t1", "fine\tworse"])
def test_a_line_without_label_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(CalibrationError, match=r"text\.txt, line 3"):
        read(tmp_path, f"fine\t1\n\n{line}\n", classes=FILM, labels=True)


@pytest.mark.parametrize(
    ("label", "index"),
    [
        *[("Bad", 0), ("bad", 0), ("BAD", 0), ("0", 0), ("good", 1), ("Good", 2), ("GOOD", None)],
        *[("3 STARS", 3), ("3", 3), ("1", 4), ("5", None), ("-1", None), ("", None)],
    ],
)
def test_a_label_is_a_name_an_index_or_a_name_in_another_case(
    label: str, index: int | None
) -> None:
    assert FILM.index(label, 0) == index


def test_a_label_of_a_prompt_is_the_index_of_a_choice(tmp_path: Path) -> None:
    choices = Classes(None)
    found = read(tmp_path, "p\tx\ty\t1\np\tx\ty\tz\t0\n", classes=choices, labels=True)
    assert found == (TextItem("p", ("x", "y"), 1), TextItem("p", ("x", "y", "z"), 0))
    assert read(tmp_path, "p\t0\t1\n", classes=choices) == (TextItem("p", ("0", "1")),)
    for wrong in ("p\tx\ty\t2\n", "p\tx\ty\tx\n"):
        with pytest.raises(CalibrationError, match="expected 0 to below 2 choices"):
            read(tmp_path, wrong, classes=choices, labels=True)


def test_labels_are_found_where_every_line_has_a_known_one(tmp_path: Path) -> None:
    labelled = "fine\tbad\nquestion\tanswer\t1\n"
    found = read(tmp_path, labelled, classes=FILM)
    assert found == (TextItem("fine", (), 0), TextItem("question", ("answer",), 4))
    pairs = (TextItem("fine", ("bad",)), TextItem("question", ("answer", "1")))
    assert read(tmp_path, labelled, classes=FILM, labels=False) == pairs
    assert read(tmp_path, labelled) == pairs
    assert read(tmp_path, labelled + "one\tmore\n", classes=FILM)[:2] == pairs


def test_unknown_labels_of_jsonl_are_pointed_out(tmp_path: Path) -> None:
    lines = '{"text": "a", "label": "bad"}\n{"text": "b", "label": "worse"}\n'
    with pytest.warns(UserWarning, match=r"line 2: label 'worse': .* no label of the file is used"):
        found = read(tmp_path, lines, name="data.jsonl", classes=FILM)
    assert found == (TextItem("a"), TextItem("b"))
    with pytest.raises(CalibrationError, match=r"line 2: label 'worse': .*--no-labels"):
        read(tmp_path, lines, name="data.jsonl", classes=FILM, judged=True)
    assert (
        read(tmp_path, lines, name="data.jsonl", classes=FILM, labels=False, judged=True) == found
    )


@pytest.mark.filterwarnings("error")
def test_labels_that_were_not_asked_for_are_pointed_out(tmp_path: Path) -> None:
    lines = [f"sentence {index}\t{index % 3}" for index in range(FEW_TEXTS)]
    with pytest.warns(UserWarning, match="3 words"):
        read(tmp_path, "\n".join(lines))
    read(tmp_path, "\n".join(lines), labels=False)
    read(tmp_path, "\n".join(f"question {i}\tanswer {i}" for i in range(FEW_TEXTS)))
    read(tmp_path, "\n".join(["no tab", *lines]))


def test_a_stream_is_read_as_it_comes() -> None:
    lines = iter([b"\xef\xbb\xbfone\r\n", b"\n", b"a\tb\n", b"\xff\n"])
    found = stream_texts(lines, "stdin")
    assert [next(found) for _ in range(3)] == [
        TextItem("one"),
        TextItem(""),
        TextItem("a", ("b",)),
    ]
    with pytest.raises(CalibrationError, match="stdin, line 4: not UTF-8"):
        next(found)
    rows = [b'{"text": "p", "choices": ["x", "y"]}', b'"two"']
    assert list(stream_texts(rows, "stdin")) == [TextItem("p", ("x", "y")), TextItem("two")]


def test_jsonl(tmp_path: Path) -> None:
    rows = [
        {"text": "one"},
        "two",
        {"text": "three", "pair": "other", "label": 2, "more": [1]},
        {"text": "four", "text_pair": "other", "label": "good"},
        {"text": "five", "text_pair": None, "label": None},
        {"text": "six", "choices": ["a", "b", "c"]},
    ]
    content = "\n\n".join(json.dumps(row) for row in rows)
    expected = (
        TextItem("one"),
        TextItem("two"),
        TextItem("three", ("other",)),
        TextItem("four", ("other",)),
        TextItem("five"),
        TextItem("six", ("a", "b", "c")),
    )
    assert read(tmp_path, content, name="data.jsonl", classes=FILM) == expected
    assert read(tmp_path, content, name="data.NDJSON") == expected
    assert read(tmp_path, content, name="data.txt") == expected  # it begins with an object
    labelled = "\n".join(json.dumps(row) for row in rows[2:4])
    expected = (TextItem("three", ("other",), 2), TextItem("four", ("other",), 1))
    assert read(tmp_path, labelled, name="data.jsonl", classes=FILM) == expected


def test_text_that_only_looks_like_json_is_text(tmp_path: Path) -> None:
    for line in ('"quoted"', "{braces}", '{"key": 1}', "[1]"):
        assert read(tmp_path, line) == (TextItem(line),)


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
        ('{"text": "a", "choices": "b"}', "\"choices\" is 'b'"),
        ('{"text": "a", "choices": ["b", ""]}', "\"choices\" is ['b', '']"),
        ('{"text": "a", "choices": ["b"], "pair": "c"}', "leave one out"),
        ('{"text": "a", "label": 0.5}', '"label" is 0.5'),
        ('{"text": "a", "label": true}', '"label" is True'),
        ('{"text": "a", "label": ""}', '"label" is'),
        ('{"text": "a"}', '"label" is missing'),
    ],
)
def test_a_malformed_json_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(CalibrationError, match=r"data\.jsonl, line 2: ") as error:
        content = f'{{"text": "x", "label": 0}}\n{line}'
        read(tmp_path, content, name="data.jsonl", classes=FILM, labels=True)
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
    with pytest.raises(CalibrationError, match=r"none\.txt: cannot be read"):
        read_texts(tmp_path / "none.txt")
    with pytest.raises(CalibrationError, match="cannot be read"):
        read_texts(tmp_path)


def test_a_file_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "MAX_BYTES", 1 << 20)
    with pytest.raises(CalibrationError, match="larger than 1 MiB; give fewer texts"):
        read(tmp_path, b"x" * ((1 << 20) + 1))


def test_too_few_examples_are_an_error_and_few_a_warning() -> None:
    path, items = Path("text.txt"), [TextItem(f"sentence {index}") for index in range(FEW_TEXTS)]
    with pytest.raises(CalibrationError, match=f"7 examples; give at least {MINIMUM_TEXTS}"):
        check_amount(path, items[: MINIMUM_TEXTS - 1])
    with pytest.warns(UserWarning, match="only 8 examples"):
        check_amount(path, items[:MINIMUM_TEXTS])
    check_amount(path, items)


def test_the_split_depends_on_the_texts_alone() -> None:
    source = [TextItem(f"text {index}", (), index % 2) for index in range(101)]
    kept, held = split_texts(source)
    assert len(held) == 25
    assert sorted((*kept, *held), key=source.index) == source
    assert list(kept) == sorted(kept, key=source.index)

    shuffled = random.Random(3).sample(source, len(source))
    assert set(split_texts(shuffled)[1]) == set(held)


def test_copies_of_a_text_land_in_one_part() -> None:
    source = [TextItem(f"text {index % 40}", (), index) for index in range(200)]
    source += [TextItem("text 1", ("with a pair",))]
    kept, held = split_texts(source)
    assert not {(e.text, e.second) for e in kept} & {(e.text, e.second) for e in held}
    assert len(kept) + len(held) == 201


@pytest.mark.parametrize("count", [2, 3, 8, 9])
@pytest.mark.parametrize("share", [0.001, 0.25, 0.999])
def test_no_part_is_empty(count: int, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "HELD_BACK", share)
    kept, held = split_texts([TextItem(str(index)) for index in range(count)])
    assert kept
    assert held


def test_what_cannot_be_split_is_refused() -> None:
    with pytest.raises(CalibrationError, match="are the same"):
        split_texts([TextItem("x"), TextItem("x")])
