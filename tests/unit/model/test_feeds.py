"""Feeds of a model: names, shapes and types, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from exporter.deberta.configuration import DebertaConfig
from exporter.errors import InputError
from exporter.model.feeds import make_feeds
from exporter.model.model_shape import ModelShape
from exporter.model.task import Task


def shape_of(task: Task = Task.SEQUENCE_CLASSIFICATION, **changes: Any) -> ModelShape:
    fields = {"vocab_size": 50, "hidden_size": 8, "num_attention_heads": 2, **changes}
    return DebertaConfig(**{"max_position_embeddings": 16, **fields}).shape(task)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int64, np.bool_])
def test_ids_become_contiguous_int64(dtype: type[np.generic]) -> None:
    ids = np.ones((3, 2), dtype).T
    feeds = make_feeds(shape_of(), ids)
    assert list(feeds) == ["input_ids", "attention_mask"]
    for values in feeds.values():
        assert values.dtype == np.int64
        assert values.flags.c_contiguous
        assert values.shape == (2, 3)
    assert feeds["attention_mask"].all()


def test_lists_are_taken() -> None:
    feeds = make_feeds(shape_of(), [[1, 2]], [[1, 0]])
    assert feeds["attention_mask"].tolist() == [[1, 0]]


def test_token_types_are_an_input_where_the_model_reads_them() -> None:
    assert make_feeds(shape_of(type_vocab_size=2), [[1, 2]])["token_type_ids"].tolist() == [[0, 0]]
    assert "token_type_ids" not in make_feeds(shape_of(), [[1, 2]], None, [[9, 9]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2],), r"shape \(2,\); sequence-classification takes \(batch, sequence\)"),
        (([[[1]]],), "takes"),
        (([[1], [1, 2]],), "rows of different lengths"),
        (([[1.0, 2.0]],), "float64; expected whole numbers"),
        (([["a"]],), "expected whole numbers"),
        ((np.zeros((2, 0), np.int64),), "is empty"),
        (([[50]],), r"input_ids: value 50; expected 0 up to below vocab_size \(50\)"),
        (([[-1]],), "value -1"),
        (([[1] * 17],), "17 tokens, but the model has positions for 16"),
        (([[1, 2]], [[1]]), r"attention_mask: shape \(1, 1\); input_ids has \(1, 2\)"),
        (([[1, 2]], [[1, 2]]), "attention_mask: value 2; expected 0 up to below 2$"),
    ],
)
def test_wrong_ids_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_feeds(shape_of(), *arguments)


def test_wrong_token_types_are_refused() -> None:
    with pytest.raises(InputError, match="token_type_ids: value 2"):
        make_feeds(shape_of(type_vocab_size=2), [[1]], None, [[2]])


def test_relative_positions_have_no_longest_length() -> None:
    relative = shape_of(position_biased_input=False)
    assert relative.longest is None
    assert make_feeds(relative, [[1] * 40])["input_ids"].shape == (1, 40)


def test_multiple_choice_takes_three_dimensions() -> None:
    shape = shape_of(Task.MULTIPLE_CHOICE)
    assert make_feeds(shape, [[[1, 2], [3, 4]]])["input_ids"].shape == (1, 2, 2)
    with pytest.raises(InputError, match=r"\(batch, choices, sequence\)"):
        make_feeds(shape, [[1, 2]])


@pytest.mark.parametrize(
    ("task", "inputs", "expected"),
    [
        (Task.BASE, (2, 5), (2, 5, 8)),
        (Task.MASKED_LM, (2, 5), (2, 5, 50)),
        (Task.SEQUENCE_CLASSIFICATION, (2, 5), (2, 2)),
        (Task.TOKEN_CLASSIFICATION, (2, 5), (2, 5, 2)),
        (Task.QUESTION_ANSWERING, (2, 5), (2, 5)),
        (Task.MULTIPLE_CHOICE, (2, 3, 5), (2, 3)),
    ],
)
def test_output_shapes(task: Task, inputs: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert shape_of(task).output_shape(inputs) == expected
