"""A model ready to run, whichever runtime computes it: token ids or texts in."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exporter.errors import InputError
from exporter.runtime.feeds import Ids, ModelShape, make_feeds
from exporter.runtime.predictions import Prediction, decode
from exporter.runtime.text import Example, TextEncoder, TextInput, collate

Floats = NDArray[np.floating]

MAX_BATCH = 32
_MAX_BATCH_ELEMENTS = 1 << 26
"""Bound on the tokens of a batch times the values that the model gives for each: 256 MiB."""


class TruncationWarning(UserWarning):
    """A text was longer than the model takes; its end was left out."""


class Session(Protocol):
    """What `exporter.load` returns and the parity check compares."""

    @property
    def name(self) -> str:
        """The runtime, for reports, such as `onnxruntime cpu`."""

    @property
    def shape(self) -> ModelShape:
        """The model's configuration and task."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""

    def run(
        self,
        *,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
    ) -> dict[str, Floats]:
        """Outputs by name for token ids `(B, S)`, or `(B, C, S)` for multiple choice."""

    def __call__(self, texts: Sequence[TextInput]) -> list[Prediction]:
        """A prediction for each text, in order."""

    def close(self) -> None:
        """Free the model; the session cannot be used any more."""

    def __enter__(self) -> Session: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class ModelSession(ABC):
    """Everything of a session but the arithmetic: checks, batches, predictions.

    Args:
        name: the runtime, for reports.
        shape: the model's configuration and task.
        text: tokenizer of the model; None where it has none, so that only `run` works.
    """

    def __init__(self, name: str, shape: ModelShape, text: TextEncoder | None) -> None:
        self.name = name
        self.shape = shape
        self.text = text
        self.max_batch = MAX_BATCH

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return self.shape.inputs

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return self.shape.outputs

    @abstractmethod
    def _execute(self, feeds: Mapping[str, Ids]) -> dict[str, Floats]:
        """Outputs by name; `feeds` are checked int64 arrays, C-contiguous."""

    @abstractmethod
    def close(self) -> None:
        """Free the model; the session cannot be used any more."""

    def __enter__(self) -> ModelSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def run(
        self,
        *,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
    ) -> dict[str, Floats]:
        """Outputs by name for token ids.

        Args:
            input_ids: whole numbers `(B, S)`, or `(B, C, S)` for multiple choice.
            attention_mask: same shape, 1 for a token and 0 for padding; all ones by default.
            token_type_ids: same shape; zeros by default, ignored by models without token types.

        Returns:
            float32 arrays; see `exporter.deberta.tasks` for names and shapes. Values at padded
            positions mean nothing.

        Raises:
            InputError: wrong shape, dtype, length or value.
        """
        return self._execute(make_feeds(self.shape, input_ids, attention_mask, token_type_ids))

    def __call__(self, texts: Sequence[TextInput]) -> list[Prediction]:
        """A prediction for each text, in order; runs in batches of similar length.

        Args:
            texts: texts; pairs `(question, context)` for question answering and `(text, choices)`
                for multiple choice. An empty text is valid. One that is too long is cut, with a
                `TruncationWarning`.

        Raises:
            InputError: the model has no tokenizer, or a text does not suit the task.
        """
        if isinstance(texts, str):
            raise InputError("texts is one text; give a list of texts")
        encoder = self.text
        if encoder is None:
            raise InputError("the model has no tokenizer; pass token ids to session.run")
        examples = [encoder.encode(text) for text in texts]
        for example in examples:
            if example.truncated:
                message = f"text cut to {example.length} tokens: {example.text[:40]!r}..."
                warnings.warn(message, TruncationWarning, stacklevel=2)
        predictions: dict[int, Prediction] = {}
        for batch in _batches(examples, self.shape, self.max_batch):
            feeds = collate([examples[i] for i in batch], self.shape)
            outputs = self._execute(make_feeds(self.shape, **feeds))
            for row, index in enumerate(batch):
                part = {name: values[row] for name, values in outputs.items()}
                predictions[index] = decode(self.shape, encoder.tokenizer, examples[index], part)
        return [predictions[index] for index in range(len(examples))]


def _batches(examples: Sequence[Example], shape: ModelShape, largest: int) -> Iterator[list[int]]:
    """Indices of examples in batches of at most `largest`: similar lengths, to pad little."""
    order = sorted(
        range(len(examples)), key=lambda i: (len(examples[i].rows), examples[i].length, i)
    )
    batch: list[int] = []
    for index in order:
        example = examples[index]
        # Sorted by length, so this example sets the length of the batch that it joins.
        rows = (len(example.rows),) if shape.rank == 3 else ()
        inputs = (len(batch) + 1, *rows, example.length)
        elements = prod(shape.output_shape(inputs))
        same_rows = not batch or len(examples[batch[0]].rows) == len(example.rows)
        if batch and (len(batch) == largest or elements > _MAX_BATCH_ELEMENTS or not same_rows):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
