"""A model ready to run, whichever runtime computes it: token ids or texts in."""

from __future__ import annotations

import ctypes
import os
import pickle
import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exporter.errors import InputError, RunError
from exporter.inputs.encode import Example, TextEncoder, TextInput, collate
from exporter.inputs.gliner_texts import with_labels
from exporter.model.feeds import Ids, make_feeds
from exporter.model.model_shape import ModelShape
from exporter.model.task import Task
from exporter.predictions.decode import decode
from exporter.predictions.passages import check_ranks, ranked_passages
from exporter.predictions.predicted import Prediction, RankedPassage, ZeroShotPrediction
from exporter.predictions.prediction_options import DEFAULTS, PredictionOptions
from exporter.predictions.zero_shot import (
    HYPOTHESIS,
    entailment_labels,
    hypotheses,
    zero_shot_prediction,
)
from exporter.runtime.batching import ON_GPU, Batching, batches, windows

Floats = NDArray[np.floating]
Outputs: TypeAlias = Mapping[str, Floats]
Result = TypeVar("Result")


class TruncationWarning(UserWarning):
    """A text was longer than the model takes; its end was left out."""


class Session(ABC):
    """What `exporter.load` returns: all of it but the arithmetic, which is each runtime's own.

    Pickled, it is opened again where it is unpickled, from the same folder. In a forked child it is
    opened again on its first use where `survives_fork` is true; else that use is an InputError.

    Attributes:
        name: the runtime, for reports.
        shape: the model's configuration and task.
        input_names: names of the inputs, in order.
        output_names: names of the outputs, in order.
        text: tokenizer of the model; None where it has none, so that only `run` works.
        batching: how texts are put in batches.
        notes: what a user should know of how it runs; `exporter.load` warns of it.
        reopen: opens it again; None where nothing but its maker knows how.
        survives_fork: whether the runtime can be started in a child of a process that has used it.
    """

    def __init__(
        self, name: str, shape: ModelShape, text: TextEncoder | None, batching: Batching = ON_GPU
    ) -> None:
        self.name, self.shape, self.text, self.batching = name, shape, text, batching
        self.input_names, self.output_names = shape.inputs, shape.outputs
        self.notes: tuple[str, ...] = ()
        self.reopen: Callable[[], Session] | None = None
        self.survives_fork = False
        self._process = os.getpid()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=partial(_keep, weakref.ref(self)))

    def __reduce__(self) -> tuple[Callable[[], Session], tuple[()]]:
        if self.reopen is None:
            raise pickle.PicklingError(
                f"{self.name}: only a session of exporter.load can be pickled; pickle its folder"
            )
        return self.reopen, ()

    def _enter_process(self) -> None:
        """Open the model again in a forked child: the threads of the session are its parent's."""
        if os.getpid() == self._process:
            return
        if self.reopen is None or not self.survives_fork:
            raise InputError(
                f"{self.name}: the session was opened by process {self._process}, of which this is "
                "a fork; open it here, or start processes with spawn, which a session is pickled to"
            )
        vars(self).update(vars(self.reopen()))

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
        **words: ArrayLike,
    ) -> dict[str, Floats]:
        """Outputs by name for token ids.

        Args:
            input_ids: whole numbers `(B, S)`, or `(B, C, S)` for multiple choice.
            attention_mask: same shape, 1 for a token and 0 for padding; all ones by default.
            token_type_ids: same shape; zeros by default, ignored by models without token types.
            words: `words_mask`, `text_lengths`, `span_idx` and `span_mask` of a GLiNER model, see
                `exporter.model.gliner_head`; spans are all spans by default.

        Returns:
            float32 arrays; see `exporter.model.task` for names and shapes. Values at padded
            positions mean nothing.

        Raises:
            InputError: wrong shape, dtype, length or value.
        """
        self._enter_process()
        given = (input_ids, attention_mask, token_type_ids)
        return self._execute(make_feeds(self.shape, *given, **words))

    def __call__(
        self,
        texts: Iterable[TextInput],
        options: PredictionOptions = DEFAULTS,
        *,
        entities: Sequence[str] | None = None,
    ) -> list[Prediction]:
        """A prediction for each text, in order; runs in batches of similar length.

        Args:
            texts: texts; pairs `(question, context)` for question answering and `(text, choices)`
                for multiple choice. An empty text is valid. One that is too long is read in windows
                for token classification, question answering and where `options.windows` asks for
                it; else it is cut, with a `TruncationWarning`.
            options: what to read of the outputs.
            entities: labels that a GLiNER model is asked for; without them each text brings its
                own, as `(text, labels)`.

        Raises:
            InputError: the model has no tokenizer, or a text does not suit the task.
        """
        return list(self._stream(self._asked(texts, entities), options, stacklevel=3))

    def stream(
        self,
        texts: Iterable[TextInput],
        options: PredictionOptions = DEFAULTS,
        *,
        entities: Sequence[str] | None = None,
    ) -> Iterator[Prediction]:
        """Predictions in the order of the texts, which are taken as they are needed.

        At most `batching.window` texts and their predictions are in memory at once, so an endless
        or very long source is fine. Texts are sorted by length within a window.

        Raises:
            InputError: as for a call of the session, when the text's window is reached.
        """
        return self._stream(self._asked(texts, entities), options, stacklevel=2)

    def attempts(
        self,
        texts: Iterable[TextInput | InputError],
        options: PredictionOptions = DEFAULTS,
        *,
        entities: Sequence[str] | None = None,
    ) -> Iterator[Prediction | InputError]:
        """As `stream`, with the error of a text that has no prediction in its place.

        Such are texts that do not suit the task, or that the runtime fails on also when alone.
        Errors among the texts stay in their place. What is cut draws no warning: predictions say
        so themselves.

        Raises:
            InputError: the model has no tokenizer, labels cannot be asked, or the session is a
                fork's or closed.
        """
        self._asked((), entities)
        cut, read = self._cutter(texts, options), self._reader(options)
        self._enter_process()

        def examples(text: TextInput) -> tuple[Example, ...]:
            (asked,) = self._asked((text,), entities)
            return cut(asked)

        for some in windows(texts, self.batching.window):
            parts = [
                text if isinstance(text, InputError) else _attempt(partial(examples, text))
                for text in some
            ]
            whole = [part for part in parts if not isinstance(part, InputError)]
            found: list[Prediction | InputError]
            try:
                found = [*self._read(whole, read)]
            except RunError:
                alone = [_attempt(partial(self._read, [part], read)) for part in whole]
                found = [it if isinstance(it, InputError) else it[0] for it in alone]
            answers = iter(found)
            yield from (it if isinstance(it, InputError) else next(answers) for it in parts)

    def zero_shot(
        self,
        texts: Iterable[str],
        labels: Sequence[str],
        *,
        hypothesis: str = HYPOTHESIS,
        multi_label: bool = False,
    ) -> Iterator[ZeroShotPrediction]:
        """For each text, in order, which of `labels` it entails by a model trained for inference.

        Args:
            texts: texts, taken as they are needed.
            labels: any words.
            hypothesis: a sentence with `{}` where a label goes.
            multi_label: whether each label stands for itself; else they are exclusive.

        Raises:
            InputError: the model's labels have no entailment, or a text does not suit.
        """
        entailment_labels(self.shape)
        sentences = hypotheses(labels, hypothesis)
        encoder = self._encoder(texts)

        def read(examples: Sequence[Example], outputs: Sequence[Outputs]) -> ZeroShotPrediction:
            logits = _logits(outputs)
            return zero_shot_prediction(self.shape, labels, examples, logits, multi_label)

        for some in windows(texts, max(1, self.batching.window // len(labels))):
            pairs = [
                [encoder.encode((text, it), truncation="only_first") for it in sentences]
                for text in some
            ]
            self._warn_of_cuts([part[0] for part in pairs], stacklevel=3)
            yield from self._read(pairs, read)

    def rerank(
        self, query: str, passages: Iterable[str], top_k: int | None = None
    ) -> list[RankedPassage]:
        """The passages by their relevance to `query`, best first, the `top_k` of them.

        Raises:
            InputError: the model has not one label, or a text does not suit.
        """
        check_ranks(self.shape)
        encoder = self._encoder(passages)
        examples = [encoder.encode((query, passage)) for passage in passages]
        self._warn_of_cuts(examples, stacklevel=3)
        if not examples:
            return []
        (found,) = self._read(
            [examples], lambda of, outputs: ranked_passages(self.shape, of, _logits(outputs), top_k)
        )
        return found

    def _encoder(self, texts: Iterable[object]) -> TextEncoder:
        if isinstance(texts, str):
            raise InputError("texts is one text; give a list of texts")
        if self.text is None:
            raise InputError("the model has no tokenizer; pass token ids to session.run")
        return self.text

    def _asked(
        self, texts: Iterable[TextInput], entities: Sequence[str] | None
    ) -> Iterable[TextInput]:
        """The texts with the labels that a GLiNER model is asked for."""
        if self.shape.gliner is not None:
            return with_labels(texts, entities, self.shape.gliner)
        if entities is not None:
            raise InputError(f"entities: {self.shape.task} has labels of its own; leave them out")
        return texts

    def _stream(
        self, texts: Iterable[TextInput], options: PredictionOptions, stacklevel: int
    ) -> Iterator[Prediction]:
        """As `stream`; warnings are shown `stacklevel` calls up: at the user's own line."""
        cut, read = self._cutter(texts, options), self._reader(options)
        for some in windows(texts, self.batching.window):
            parts = [cut(text) for text in some]
            self._warn_of_cuts([part[0] for part in parts if len(part) == 1], stacklevel + 1)
            yield from self._read(parts, read)

    def _cutter(
        self, texts: Iterable[object], options: PredictionOptions
    ) -> Callable[[TextInput], tuple[Example, ...]]:
        """What makes of a text its windows, or the one example that it is."""
        encoder, task = self._encoder(texts), self.shape.task
        windowed = task in (Task.TOKEN_CLASSIFICATION, Task.QUESTION_ANSWERING, Task.GLINER)
        if task is Task.SEQUENCE_CLASSIFICATION:
            windowed = options.windows != "cut"
        if windowed:
            return partial(encoder.windows, stride=options.stride)
        return lambda text: (encoder.encode(text),)

    def _reader(
        self, options: PredictionOptions
    ) -> Callable[[Sequence[Example], Sequence[Outputs]], Prediction]:
        tokenizer = self._encoder(()).tokenizer
        return lambda examples, outputs: decode(self.shape, tokenizer, examples, outputs, options)

    def _warn_of_cuts(self, examples: Iterable[Example], stacklevel: int) -> None:
        for example in examples:
            if example.truncated:
                message = f"text cut to {example.length} tokens: {example.text[:40]!r}..."
                warnings.warn(message, TruncationWarning, stacklevel=stacklevel)

    def _read(
        self,
        parts: Sequence[Sequence[Example]],
        read: Callable[[Sequence[Example], Sequence[Outputs]], Result],
    ) -> list[Result]:
        """What `read` makes of each part's examples and their outputs, without the batch dimension.

        Each part is read as soon as it is complete: outputs may be large.
        """
        self._enter_process()
        examples = [example for part in parts for example in part]
        owners = [number for number, part in enumerate(parts) for _ in part]
        groups = list(batches(examples, self.shape, self.batching))
        feeds = (
            make_feeds(self.shape, **collate([examples[i] for i in group], self.shape))
            for group in groups
        )
        waiting: dict[int, dict[int, Outputs]] = {}
        found: dict[int, Result] = {}
        for group, outputs in zip(groups, self._execute_all(feeds), strict=True):
            for row, index in enumerate(group):
                owner = owners[index]
                mine = waiting.setdefault(owner, {})
                mine[index] = {name: values[row] for name, values in outputs.items()}
                if len(mine) == len(parts[owner]):
                    ordered = [values for _, values in sorted(waiting.pop(owner).items())]
                    found[owner] = read(parts[owner], ordered)
        return [found[number] for number in range(len(parts))]


def _attempt(work: Callable[[], Result]) -> Result | InputError:
    """What `work` gives, or the error that a text of the user's is to blame for."""
    try:
        return work()
    except InputError as error:
        return error


def _keep(session: weakref.ref[Session]) -> None:
    """Never free what a forked child has of a session: that would wait for its parent's threads."""
    if (inherited := session()) is not None:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(dict(vars(inherited))))


def _logits(outputs: Sequence[Outputs]) -> NDArray[np.float64]:
    """The logits of a classifier for several rows, `(N, L)`."""
    return np.array([values["logits"] for values in outputs], np.float64)
