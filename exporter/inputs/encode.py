"""Texts to padded arrays: tokenized, with what a prediction later needs to point into the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from exporter.deberta.tokenization import Encoding, Tokenizer
from exporter.errors import InputError
from exporter.model.feeds import Ids
from exporter.model.model_shape import ModelShape
from exporter.model.task import Task

TextInput: TypeAlias = "str | tuple[str, str | Sequence[str]]"
"""A text; a pair (question and context); or, for multiple choice, a prompt and its choices."""


@dataclass(frozen=True)
class Example:
    """One text, pair or prompt, tokenized: one row, or one for each choice."""

    text: str
    second: tuple[str, ...]
    rows: tuple[Encoding, ...]

    @property
    def length(self) -> int:
        """Tokens of the longest row."""
        return max(len(row) for row in self.rows)

    @property
    def truncated(self) -> bool:
        """Whether tokens of a row were dropped."""
        return any(row.truncated for row in self.rows)


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer with the task's manner of joining texts and the length they are cut to."""

    tokenizer: Tokenizer
    task: Task
    max_length: int

    def encode(self, item: TextInput, max_length: int | None = None) -> Example:
        """Tokenize one input, cut to `max_length` tokens (the encoder's own by default).

        Raises:
            InputError: a pair where the task takes a single text or the reverse, or no text at all.
        """
        limit = self.max_length if max_length is None else max_length
        text, second = self._parts(item)
        rows = tuple(
            self.tokenizer.encode(text, pair, truncation="longest_first", max_length=limit)
            for pair in (second or (None,))
        )
        return Example(text, second, rows)

    def _parts(self, item: TextInput) -> tuple[str, tuple[str, ...]]:
        """The first text and the others."""
        second: tuple[str, ...] = ()
        if isinstance(item, str):
            text = item
        elif isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[0], str):
            text = item[0]
            second = (item[1],) if isinstance(item[1], str) else tuple(item[1])
        else:
            raise InputError(f"{item!r}: give a text, or a pair of texts")
        wanted, count = "at most two texts", len(second)
        fits = count <= 1
        if self.task is Task.MULTIPLE_CHOICE:
            wanted, fits = "a text and two or more choices", count >= 2
        elif self.task is Task.QUESTION_ANSWERING:
            wanted, fits = "a question and a context", count == 1
        if not fits:
            raise InputError(f"{text[:60]!r}: {self.task} takes {wanted}")
        return text, second


def parse_line(line: str) -> TextInput:
    """A line of a text file: a text, or two or more parts with tabs between.

    The parts are a pair, a question and its context, or a prompt and its choices.
    """
    first, *rest = line.rstrip("\r\n").split("\t")
    if not rest:
        return first
    return (first, rest[0] if len(rest) == 1 else tuple(rest))


def collate(
    examples: Sequence[Example], shape: ModelShape, length: int | None = None
) -> dict[str, Ids]:
    """The inputs of a model for a batch, padded on the right to `length` (the longest by default).

    Args:
        examples: B examples with the same number of rows, which is C for multiple choice.
        shape: the model.
        length: S; at least the longest row.

    Returns:
        int64 arrays by input name, `(B, S)` or `(B, C, S)`.
    """
    width = max(example.length for example in examples) if length is None else length
    rows = [row for example in examples for row in example.rows]
    arrays = {name: np.zeros((len(rows), width), np.int64) for name in shape.inputs}
    arrays["input_ids"][:] = shape.pad_token_id
    for name, array in arrays.items():
        for target, row in zip(array, rows, strict=True):
            values: tuple[int, ...] = getattr(row, name)
            target[: len(values)] = values
    if "token_type_ids" in arrays:
        # A model with fewer types than the tokenizer tells apart: it was trained on type 0 alone.
        np.minimum(
            arrays["token_type_ids"],
            shape.type_vocab_size - 1,
            out=arrays["token_type_ids"],
        )
    if shape.rank == 2:
        return arrays
    return {name: array.reshape(len(examples), -1, width) for name, array in arrays.items()}
