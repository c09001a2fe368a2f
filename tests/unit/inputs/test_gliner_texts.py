"""Words, prompts and windows of GLiNER, and what cannot be asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from exporter.deberta.gliner_configuration import read_config
from exporter.errors import InputError
from exporter.inputs.encode import collate
from exporter.inputs.gliner_texts import GlinerEncoder, with_labels
from exporter.model.task import Task
from exporter.runtime.load import text_encoder

FOLDER = Path(__file__).parents[2] / "golden" / "gliner_model"
LABELS = ("person", "city")


def encoder_of(length: int) -> GlinerEncoder:
    made = text_encoder(FOLDER, Task.GLINER, length, read_config(FOLDER).gliner)
    assert isinstance(made, GlinerEncoder)
    return made


ENCODER = encoder_of(200)


def words(text: str) -> list[str]:
    return [text[start:end] for start, end in ENCODER.encode((text, LABELS)).words]


def test_words_are_those_of_gliner() -> None:
    text = "It's well-known_x: 3.14 (U.S.)!"
    expected = "It|'|s|well-known_x|:|3|.|14|(|U|.|S|.|)|!".split("|")
    assert words(text) == expected


def test_words_without_a_token_are_left_out() -> None:
    assert words("\x7f Ada \x01\x02 Lovelace") == ["Ada", "Lovelace"]
    assert words("\x7f\x01") == words("  ") == words("") == []


def test_a_text_without_words_still_runs() -> None:
    feeds = collate([ENCODER.encode(("\x01", LABELS))], read_config(FOLDER).shape(Task.GLINER))
    assert feeds["text_lengths"].tolist() == [[1]]
    assert not feeds["words_mask"].any()


def test_the_prompt() -> None:
    (row,) = ENCODER.encode(("Ada", LABELS)).rows
    mark, end = ENCODER.head.class_token_index, ENCODER.head.class_token_index + 1
    ids = list(row.input_ids)
    assert ids.count(mark) == 2 and ids.count(end) == 1
    assert ids[1] == mark and ids.index(end) < len(ids) - 2


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((), "no labels"),
        (("person", " "), "label ' ' is empty"),
        (("person", "person"), "'person' is given twice"),
        (("a <<SEP>> b",), "has <<SEP>>"),
        (("<<ENT>>",), "has <<ENT>>"),
        (("\x01",), "no token for it"),
        ("person", "one text"),
    ],
)
def test_labels_that_cannot_be_asked(labels: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(map(ENCODER.encode, with_labels(["Ada"], labels, ENCODER.head)))


def test_labels_without_room() -> None:
    many = tuple(f"label number {index}" for index in range(60))
    with pytest.raises(InputError, match=r"60 labels take \d+ of the 200 tokens"):
        ENCODER.encode(("Ada", many))


def test_labels_once() -> None:
    with pytest.raises(InputError, match="labels of its own"):
        list(with_labels([("Ada", ("city",))], ("person",), ENCODER.head))
    with pytest.raises(InputError, match="no labels to find"):
        list(with_labels(["Ada"], None, ENCODER.head))
    (item,) = with_labels([("Ada", ("city",))], None, ENCODER.head)
    assert item.second == ("city",)


@pytest.mark.parametrize("length", [30, 41, 64])
def test_windows_have_every_word_and_share_some(length: int) -> None:
    encoder = encoder_of(length)
    text = " ".join(f"word{index}" for index in range(80))
    windows = encoder.windows((text, LABELS))
    assert len(windows) > 1
    seen: set[int] = set()
    for before, window in zip((None, *windows), windows, strict=False):
        assert len(window.rows[0]) <= length
        places = set(range(window.first_word, window.first_word + len(window.words)))
        if before is not None:
            assert places & seen and places - seen
        seen |= places
    assert seen == set(range(80))
    assert len(encoder.windows((text, LABELS), stride=0)) <= len(windows)


def test_a_word_longer_than_the_window_is_cut() -> None:
    encoder = encoder_of(30)
    (row,) = encoder.encode(("incomprehensibility" * 20, LABELS)).rows
    assert len(row) == 30 < row.total


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [("first", [1, 0, 2]), ("last", [0, 1, 2]), ("mean", [1, 1, 2]), ("max", [1, 1, 2])],
)
def test_tokens_count_for_their_words(pooling: str, expected: list[int]) -> None:
    from dataclasses import replace

    (row,) = ENCODER.encode(("Lovelace x", LABELS)).rows
    middle = [place for place, word in enumerate(row.words) if word == 0]
    assert len(middle) > 1
    shape = read_config(FOLDER).shape(Task.GLINER)
    assert shape.gliner is not None
    shape = replace(shape, gliner=replace(shape.gliner, subtoken_pooling=pooling))
    (numbers,) = collate([ENCODER.encode(("Lovelace x", LABELS))], shape)["words_mask"]
    picked = [int(numbers[middle[0]]), int(numbers[middle[-1]]), int(numbers[middle[-1] + 1])]
    assert picked == expected
    assert np.count_nonzero(numbers) == (2 if pooling in ("first", "last") else len(middle) + 1)


def test_a_foreign_tokenizer_is_refused() -> None:
    from exporter.demo import checkpoint_folder

    with pytest.raises(InputError, match="the tokenizer reads <<ENT>> as"):
        text_encoder(checkpoint_folder(), Task.GLINER, 64, read_config(FOLDER).gliner)
