"""Texts to calibrate with and to judge by: divided, tokenized, batched by length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np

from calibration.texts import TextItem, split_texts
from calibration.tokens import TokenSequence, data_hash, token_warnings
from exporter.errors import InputError
from exporter.inputs.cases import text_examples
from exporter.inputs.encode import Example, TextEncoder, collate
from exporter.metrics.decisions import Decision, decision_of
from exporter.model.feeds import Ids
from exporter.model.model_shape import ModelShape
from exporter.model.task import Task

TOKEN_BUDGET = 4096
"""Ids of a batch, padding included."""
CALIBRATION_TEXTS = 512
"""Texts to calibrate with: more do not move the thresholds."""
SHORT_TEXTS = (1, 2, 3, 4, 6) * 4
"""Lengths in tokens of texts to calibrate with beside those given. Where few tokens share the
attention, less is averaged away: its output reaches further than in any longer text."""
HELD_BACK_TEXTS = 1024
"""Texts to judge by: one more decision in a thousand still shows."""


@dataclass(frozen=True, eq=False)
class TextBatches:
    """Texts in padded batches, longest first.

    Of each batch, `feeds` are the int64 inputs by name, `rows` the numbers of its texts.
    `data_hash` is the SHA-256 of all token ids in whatever order; `warnings` say what the tokens
    say against the text.
    """

    feeds: tuple[Mapping[str, Ids], ...]
    rows: tuple[tuple[int, ...], ...]
    data_hash: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class CalibrationText:
    """Texts of the user, tokenized and divided: for calibration, and held back to judge by.

    Of `given` texts `used` are calibrated with; repeated ones count once.
    """

    given: int
    used: int
    batches: TextBatches
    held_back: TextBatches
    held_back_texts: tuple[TextItem, ...]


def prepare_text(
    encoder: TextEncoder, shape: ModelShape, examples: Sequence[TextItem]
) -> CalibrationText:
    """Divide texts into those to calibrate with and those to judge by, and tokenize them.

    Raises:
        CalibrationError: too few different texts, or none with a token that the model knows.
        InputError: a text that the task cannot take.
    """
    used, held_back = split_texts(examples)
    used, held_back = _spread(used, CALIBRATION_TEXTS), _spread(held_back, HELD_BACK_TEXTS)
    batches = batch_texts(encoder, shape, used, SHORT_TEXTS)
    judged = batch_texts(encoder, shape, held_back)
    return CalibrationText(len(examples), len(used), batches, judged, held_back)


def _spread(examples: tuple[TextItem, ...], limit: int) -> tuple[TextItem, ...]:
    """So many examples at most, evenly spaced over the file, which may be sorted."""
    count = min(limit, len(examples))
    return tuple(examples[index * len(examples) // count] for index in range(count))


def batch_texts(
    encoder: TextEncoder, shape: ModelShape, texts: Sequence[TextItem], lengths: Sequence[int] = ()
) -> TextBatches:
    """Tokenize texts and batch them.

    Single texts become what the task takes, as in the parity check: neighbours are a question's
    context or a prompt's choices, and masked LM gets masks. `lengths` adds texts of exactly so many
    tokens, made of these; their numbers come after the others'.

    Raises:
        CalibrationError: no text has a token that the model knows.
        InputError: a pair or text that the task cannot take.
    """
    source = text_examples(encoder, texts)
    made = [source(index, None) for index in range(len(texts))]
    made += [source(index, length) for index, length in enumerate(lengths)]
    rows = [row for item in made for row in item.rows]
    sequences = [TokenSequence(row.input_ids, row.token_type_ids) for row in rows]
    special = {token for row in rows for token in compress(row.input_ids, row.special_tokens_mask)}
    unknown = encoder.tokenizer.unk_token_id
    batches = tuple(_batches(made))
    return TextBatches(
        feeds=tuple(collate([made[number] for number in batch], shape) for batch in batches),
        rows=batches,
        data_hash=data_hash(sequences),
        warnings=token_warnings(sequences, unknown_id=unknown, special_ids=special),
    )


def label_indices(shape: ModelShape, texts: Sequence[TextItem]) -> Ids | None:
    """The class of each text `(N,)`, or None where the texts have no labels.

    Raises:
        InputError: a task that has not one class for each text.
    """
    if any(item.label is None for item in texts):
        return None
    if shape.task is not Task.SEQUENCE_CLASSIFICATION or decision_of(shape) is not Decision.ARGMAX:
        raise InputError(f"labels: {shape.task} has not one class for each text; leave them out")
    return np.array([item.label for item in texts], np.int64)


def _batches(examples: Sequence[Example]) -> Iterator[tuple[int, ...]]:
    """Numbers of the examples of each batch: alike in rows, longest first, within the budget."""
    order = sorted(range(len(examples)), key=lambda i: (len(examples[i].rows), -examples[i].length))
    start = 0
    while start < len(order):
        first = examples[order[start]]
        size = max(1, TOKEN_BUDGET // (first.length * len(first.rows)))
        chosen = order[start : start + size]
        alike = [i for i in chosen if len(examples[i].rows) == len(first.rows)]
        yield tuple(alike)
        start += len(alike)
