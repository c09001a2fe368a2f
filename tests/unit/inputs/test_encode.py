"""Texts to the padded inputs of a model, for both kinds of tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tokenizer_files import KINDS, PAD, write_tokenizer_files

from exporter.deberta.configuration import DebertaConfig
from exporter.deberta.tokenization import load_tokenizer
from exporter.errors import InputError
from exporter.inputs.encode import TextEncoder, collate
from exporter.model.task import Task


@pytest.fixture(params=KINDS)
def encoder(request: pytest.FixtureRequest, tmp_path: Path) -> TextEncoder:
    write_tokenizer_files(tmp_path / "checkpoint")
    tokenizer = load_tokenizer(tmp_path / "checkpoint", kind=request.param)
    return TextEncoder(tokenizer, Task.SEQUENCE_CLASSIFICATION, 12)


@pytest.mark.parametrize("length", [None, 16])
def test_rows_do_not_depend_on_the_batch(encoder: TextEncoder, length: int | None) -> None:
    texts: list[Any] = ["", "a", ("b c", "d"), "e " * 50, ("", "")]
    examples = [encoder.encode(text) for text in texts]
    shape = DebertaConfig(type_vocab_size=2).shape(Task.SEQUENCE_CLASSIFICATION)
    feeds = collate(examples, shape, length)
    assert set(feeds) == {"input_ids", "attention_mask", "token_type_ids"}
    for name, array in feeds.items():
        assert (array.dtype, array.shape) == (np.int64, (5, length or 12))
        for text, values in zip(texts, array, strict=True):
            first, second = (text, None) if isinstance(text, str) else text
            own = getattr(encoder.tokenizer.encode(first, second, max_length=12), name)
            assert tuple(values[: len(own)]) == own
            assert (values[len(own) :] == (PAD if name == "input_ids" else 0)).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "None: give a text, or a pair of texts"),
        (("a", "b", "c"), r"\('a', 'b', 'c'\): give a text, or a pair"),
        (("a", ["b", "c"]), "'a': sequence-classification takes at most two texts"),
        (("b", "\ud834"), "pair has a lone surrogate"),
    ],
)
def test_what_is_no_text_is_named(encoder: TextEncoder, text: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        encoder.encode(text)


def test_no_room_for_the_special_tokens(encoder: TextEncoder) -> None:
    with pytest.raises(InputError, match="max_length 2 leaves no room for the 3 special tokens"):
        encoder.encode(("a", "b"), max_length=2)
