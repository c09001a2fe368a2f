"""Tokenized texts of GLiNER to its inputs: which word a token counts for, padding, spans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.deberta.tokenization import Encoding
from exporter.model.gliner_head import GlinerHead, text_feeds


def gliner_batch(
    rows: Sequence[Encoding], words: Sequence[int], head: GlinerHead, pad_token_id: int, width: int
) -> dict[str, NDArray[Any]]:
    """The inputs of `GlinerHead.inputs` for texts of so many `words`, padded on the right.

    A text without a word has one that has no token: what the model says of it is not read.
    """
    feeds: dict[str, NDArray[Any]] = {
        name: np.zeros((len(rows), width), np.int64)
        for name in ("input_ids", "attention_mask", "words_mask")
    }
    feeds["input_ids"][:] = pad_token_id
    for index, row in enumerate(rows):
        feeds["input_ids"][index, : len(row)] = row.input_ids
        feeds["attention_mask"][index, : len(row)] = 1
        feeds["words_mask"][index, : len(row)] = _numbers(row, head.subtoken_pooling)
    return feeds | text_feeds(head, np.maximum(1, np.array(words, np.int64)))


def _numbers(row: Encoding, pooling: str) -> list[int]:
    """Of each token the word, from 1, whose vector it is part of; 0 for none."""
    numbers = []
    step = {"first": -1, "last": 1}.get(pooling)
    for place, word in enumerate(row.words):
        # The first and the last token are marks, which have no word.
        inner = word is not None and step is not None and row.words[place + step] == word
        numbers.append(0 if word is None or inner else word + 1)
    return numbers
