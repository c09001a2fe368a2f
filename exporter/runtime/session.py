"""A model ready to run, whichever runtime computes it: token ids or texts in."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exporter.errors import InputError
from exporter.inputs.encode import TextEncoder, TextInput, collate
from exporter.model.feeds import Ids, make_feeds
from exporter.model.model_shape import ModelShape
from exporter.runtime.batching import ON_GPU, Batching, batches, windows
from exporter.runtime.predictions import Prediction, decode

Floats = NDArray[np.floating]


class TruncationWarning(UserWarning):
    """A text was longer than the model takes; its end was left out."""


class Session(ABC):
    """What `exporter.load` returns: all of it but the arithmetic, which is each runtime's own.

    Attributes:
        name: the runtime, for reports.
        shape: the model's configuration and task.
        input_names: names of the inputs, in order.
        output_names: names of the outputs, in order.
        text: tokenizer of the model; None where it has none, so that only `run` works.
        batching: how texts are put in batches.
        notes: what a user should know of how it runs; `exporter.load` warns of it.
    """

    def __init__(
        self, name: str, shape: ModelShape, text: TextEncoder | None, batching: Batching = ON_GPU
    ) -> None:
        self.name, self.shape, self.text, self.batching = name, shape, text, batching
        self.input_names, self.output_names = shape.inputs, shape.outputs
        self.notes: tuple[str, ...] = ()

    @abstractmethod
    def _execute(self, feeds: Mapping[str, Ids]) -> dict[str, Floats]:
        """Outputs by name; `feeds` are checked int64 arrays, C-contiguous."""

    def _execute_all(self, batches: Iterable[Mapping[str, Ids]]) -> Iterator[dict[str, Floats]]:
        """Outputs of several batches, in order; a runtime may compute some at the same time."""
        for feeds in batches:
            yield self._execute(feeds)

    @abstractmethod
    def close(self) -> None:
        """Free the model; the session cannot be used any more."""

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_names(self, path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Refuse a graph that is not this model's, whatever the order of its names."""
        shape = self.shape
        if (sorted(inputs), sorted(outputs)) != (sorted(shape.inputs), sorted(shape.outputs)):
            raise InputError(
                f"{path}: inputs and outputs are {tuple(inputs)} and {tuple(outputs)}; "
                f"{shape.task} has {shape.inputs} and {shape.outputs}"
            )

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
            float32 arrays; see `exporter.model.task` for names and shapes. Values at padded
            positions mean nothing.

        Raises:
            InputError: wrong shape, dtype, length or value.
        """
        return self._execute(make_feeds(self.shape, input_ids, attention_mask, token_type_ids))

    def __call__(self, texts: Iterable[TextInput]) -> list[Prediction]:
        """A prediction for each text, in order; runs in batches of similar length.

        Args:
            texts: texts; pairs `(question, context)` for question answering and `(text, choices)`
                for multiple choice. An empty text is valid. One that is too long is cut, with a
                `TruncationWarning`.

        Raises:
            InputError: the model has no tokenizer, or a text does not suit the task.
        """
        return list(self._stream(texts, stacklevel=3))

    def stream(self, texts: Iterable[TextInput]) -> Iterator[Prediction]:
        """Predictions in the order of the texts, which are taken as they are needed.

        At most `batching.window` texts and their predictions are in memory at once, so an endless
        or very long source is fine. Texts are sorted by length within a window.

        Raises:
            InputError: as for a call of the session, when the text's window is reached.
        """
        return self._stream(texts, stacklevel=2)

    def _stream(self, texts: Iterable[TextInput], stacklevel: int) -> Iterator[Prediction]:
        """As `stream`; warnings are shown `stacklevel` calls up: at the user's own line."""
        encoder = self.text
        if isinstance(texts, str):
            raise InputError("texts is one text; give a list of texts")
        for window in windows(texts, self.batching.window):
            if encoder is None:
                raise InputError("the model has no tokenizer; pass token ids to session.run")
            examples = [encoder.encode(text) for text in window]
            for example in examples:
                if example.truncated:
                    message = f"text cut to {example.length} tokens: {example.text[:40]!r}..."
                    warnings.warn(message, TruncationWarning, stacklevel=stacklevel)
            groups = list(batches(examples, self.shape, self.batching))
            feeds = (
                make_feeds(self.shape, **collate([examples[i] for i in group], self.shape))
                for group in groups
            )
            found: dict[int, Prediction] = {}
            for group, outputs in zip(groups, self._execute_all(feeds), strict=True):
                for row, index in enumerate(group):
                    part = {name: values[row] for name, values in outputs.items()}
                    found[index] = decode(self.shape, encoder.tokenizer, examples[index], part)
            yield from (found[index] for index in range(len(examples)))
