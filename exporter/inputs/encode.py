"""Texts to padded arrays: tokenized, with what a prediction later needs to point into the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from calibration.texts import TextItem
from exporter.deberta.tokenization import Encoding, Tokenizer
from exporter.deberta.tokenization.encoding import Truncation
from exporter.errors import InputError
from exporter.inputs.gliner_batches import gliner_batch
from exporter.model.feeds import Ids
from exporter.model.model_shape import ModelShape
from exporter.model.task import Task

TextInput: TypeAlias = "TextItem | str | tuple[str, str | Sequence[str]]"
"""A text; a pair (question and context); or, for multiple choice, a prompt and its choices."""

_SECONDS = {
    Task.MULTIPLE_CHOICE: (2, None, "a text and two or more choices"),
    Task.QUESTION_ANSWERING: (1, 1, "a question and a context"),
    Task.GLINER: (0, None, "a text and its labels"),
}
"""Fewest and most texts beside the first that a task takes, and both in words."""
_OTHER_SECONDS = (0, 1, "at most two texts")


@dataclass(frozen=True)
class Example:
    """One text, pair or prompt, tokenized: one row, or one for each choice.

    `second` is the other text of a pair, or the choices; `label` the class, where it is known;
    `asked` the tokens of its one row whose answer a user reads: the masked ones, the context's, or
    all but special ones, empty where that is not known. Of GLiNER, whose second texts are labels,
    `words` are the characters of each word of the window, and `first_word` its place in the text.
    """

    text: str
    second: tuple[str, ...]
    rows: tuple[Encoding, ...]
    label: int | None = None
    asked: tuple[int, ...] = ()
    words: tuple[tuple[int, int], ...] = ()
    first_word: int = 0

    @property
    def length(self) -> int:
        """Tokens of the longest row."""
        return max(len(row) for row in self.rows)

    @property
    def truncated(self) -> bool:
        """Whether tokens of a row were dropped."""
        return any(row.truncated for row in self.rows)


def as_item(given: TextInput) -> TextItem:
    """A text as callers write it, as an item; InputError when it is neither a text nor a pair."""
    if isinstance(given, TextItem):
        return given
    if isinstance(given, str):
        return TextItem(given)
    if isinstance(given, (tuple, list)) and len(given) == 2 and isinstance(given[0], str):
        second = (given[1],) if isinstance(given[1], str) else given[1]
        if isinstance(second, (tuple, list)) and all(isinstance(text, str) for text in second):
            return TextItem(given[0], tuple(second))
    raise InputError(f"{given!r}: give a text, or a pair of texts")


def fits(task: Task, item: TextItem) -> bool:
    """Whether a task takes an item as it is."""
    least, most, _ = _SECONDS.get(task, _OTHER_SECONDS)
    return least <= len(item.second) <= (most or len(item.second))


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer with the task's manner of joining texts and the length they are cut to."""

    tokenizer: Tokenizer
    task: Task
    max_length: int

    def encode(
        self,
        given: TextInput,
        max_length: int | None = None,
        truncation: Truncation = "longest_first",
    ) -> Example:
        """Tokenize one input, cut to `max_length` tokens (the encoder's own by default).

        Raises InputError for no text at all, or more or fewer texts than the task takes.
        """
        item = self._item(given)
        limit = self.max_length if max_length is None else max_length
        seconds = item.second or (None,)
        rows = tuple(
            self.tokenizer.encode(item.text, it, max_length=limit, truncation=truncation)
            for it in seconds
        )
        return Example(item.text, item.second, rows, item.label)

    def windows(self, given: TextInput, stride: int | None = None) -> tuple[Example, ...]:
        """One input in windows of the encoder's length, one where it fits: see `encode_windows`.

        A question is whole in each; of other pairs the longer text is cut. Raises InputError as
        `encode`, and where a text that stays whole leaves no room.
        """
        item = self._item(given)
        rows = self.tokenizer.encode_windows(
            item.text,
            *item.second,
            max_length=self.max_length,
            stride=stride,
            windowed="pair" if self.task is Task.QUESTION_ANSWERING else "longer",
        )
        return tuple(Example(item.text, item.second, (row,), item.label) for row in rows)

    def _item(self, given: TextInput) -> TextItem:
        item = as_item(given)
        if not fits(self.task, item):
            *_, wanted = _SECONDS.get(self.task, _OTHER_SECONDS)
            raise InputError(f"{item.text[:60]!r}: {self.task} takes {wanted}")
        return item


def collate(
    examples: Sequence[Example], shape: ModelShape, length: int | None = None
) -> dict[str, Ids]:
    """The inputs of a model for a batch, padded on the right to `length` (the longest by default).

    All B examples have the same number of rows, which is C for multiple choice. The arrays are
    int64, `(B, S)` or `(B, C, S)`, by input name; of GLiNER those of `GlinerHead.inputs`.
    """
    width = max(example.length for example in examples) if length is None else length
    rows = [row for example in examples for row in example.rows]
    if shape.gliner is not None:
        counts = [len(example.words) for example in examples]
        return gliner_batch(rows, counts, shape.gliner, shape.pad_token_id, width)
    arrays = {name: np.zeros((len(rows), width), np.int64) for name in shape.inputs}
    arrays["input_ids"][:] = shape.pad_token_id
    for name, array in arrays.items():
        for target, row in zip(array, rows, strict=True):
            target[: len(row)] = getattr(row, name)
    if "token_type_ids" in arrays:
        # A model with fewer types than the tokenizer tells apart: it was trained on type 0 alone.
        arrays["token_type_ids"].clip(max=shape.type_vocab_size - 1, out=arrays["token_type_ids"])
    if shape.rank == 2:
        return arrays
    return {name: array.reshape(len(examples), -1, width) for name, array in arrays.items()}
