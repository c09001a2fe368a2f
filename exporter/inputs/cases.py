"""Inputs of a parity check: real texts in batches of many shapes, padded and not.

The shapes are those that break exports: one token, odd lengths, very different lengths in a batch,
padding beyond the longest row, the largest length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from math import prod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from calibration.texts import TextItem
from exporter.deberta.tokenization import Encoding
from exporter.inputs.encode import Example, TextEncoder, collate, fits
from exporter.inputs.gliner_texts import DEFAULT_LABELS, GlinerEncoder
from exporter.model.feeds import Ids
from exporter.model.model_shape import ModelShape
from exporter.model.task import Task

SEED = 20210117
CHOICES_MADE = 3
"""Choices of a prompt that is made of neighbouring texts, or of random ids."""
MASKED_SHARE = 0.15
MAX_OUTPUT_BYTES = 3 << 28
"""The reference's outputs are kept until the candidate has run: at most 768 MiB of them."""
BATCH = 8
"""Texts in a batch."""

_PER_TOKEN = [item.name for item in fields(Encoding) if "tuple" in str(item.type)]


@dataclass(frozen=True)
class ParityCase:
    """One batch, named after what is special about it.

    `feeds` are int64 arrays by input name, `(B, S)` or `(B, C, S)`; `texts` the text behind each
    example, empty where the ids are random; `labels` the class of each, where the data says;
    `firsts` the first text of each pair, which those of one query share, else empty; `asked`, bool
    `(B, S)`, the tokens whose answer a user reads, see `Example`, where that is known.
    """

    name: str
    feeds: Mapping[str, Ids]
    texts: tuple[str, ...]
    labels: tuple[int, ...] | None = None
    firsts: tuple[str, ...] = ()
    asked: NDArray[np.bool_] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of every input."""
        return self.feeds["input_ids"].shape

    @property
    def mask(self) -> NDArray[np.bool_]:
        """True at valid tokens; of the shape of the inputs."""
        return np.not_equal(self.feeds["attention_mask"], 0)

    @property
    def padding(self) -> float:
        """Share of padded positions, 0 to 1."""
        return 1.0 - float(self.feeds["attention_mask"].mean())


@dataclass(frozen=True)
class DataSet:
    """Batches that are judged together, under a name that reports show."""

    name: str
    cases: tuple[ParityCase, ...]

    @property
    def inputs(self) -> int:
        """Number of examples."""
        return sum(case.shape[0] for case in self.cases)


ExampleSource: TypeAlias = Callable[[int, "int | None"], Example]
"""Makes example number i: of its natural length for None, else of exactly or at most this many
tokens per row."""


@dataclass(frozen=True)
class _Plan:
    """A case to make: a batch with these lengths (None for natural ones), padded to a length."""

    name: str
    lengths: tuple[int | None, ...]
    pad_to: int | None = None
    pad_to_multiple_of: int = 1


_ODD_PLANS = (
    _Plan("one token", (1,)),
    _Plan("two tokens", (2, 2)),
    _Plan("odd length, no padding", (7, 7, 7)),
    _Plan("padded twice as long", (33, 33), pad_to=66),
    _Plan("very different lengths", (1, 129, 5, 63, 2)),
)
"""Shapes that break exports, beside the largest; lengths beyond that are shortened to it."""


def text_examples(encoder: TextEncoder, texts: Sequence[TextItem]) -> ExampleSource:
    """Examples from real texts, in order and from the start again.

    What the task cannot take is made into what it can: neighbouring texts become a question's
    context or a prompt's choices, and a wanted length is reached by joining texts.
    """

    if isinstance(encoder, GlinerEncoder):
        return partial(_gliner_example, encoder, texts)

    def make(index: int, length: int | None) -> Example:
        if length is not None:
            example = encoder.encode(_long_item(encoder.task, texts, index, length), max(length, 3))
            cut = replace(example, rows=tuple(_cut(row, length) for row in example.rows))
            return _finished(encoder, cut, index)
        item = texts[index % len(texts)]
        if not fits(encoder.task, item):
            around = [_flat(texts[(index + k) % len(texts)]) for k in range(1 + CHOICES_MADE)]
            item = _item(encoder.task, around)
        return _finished(encoder, encoder.encode(item), index)

    return make


def _gliner_example(
    encoder: GlinerEncoder, texts: Sequence[TextItem], index: int, length: int | None
) -> Example:
    """A text with its labels, or some of the usual ones; a prompt and a word are the least."""
    item = texts[index % len(texts)]
    labels = item.second or DEFAULT_LABELS[: 1 + index % len(DEFAULT_LABELS)]
    if length is None:
        return encoder.encode(replace(item, second=labels))
    labels = labels[: max(1, length // 8)]
    text = _long_item(encoder.task, texts, index, length).text
    least = len(encoder.encode(TextItem("", labels)).rows[0]) + 1
    return encoder.encode(TextItem(text, labels), max(length, least))


def random_examples(shape: ModelShape, longest: int) -> ExampleSource:
    """Examples of seeded random ids, for a checkpoint without tokenizer."""

    def make(index: int, length: int | None) -> Example:
        generator = np.random.default_rng([SEED, index, length or 0])
        count = CHOICES_MADE if shape.task is Task.MULTIPLE_CHOICE else 1
        return Example("", (), tuple(row(generator, length) for _ in range(count)))

    def row(generator: np.random.Generator, length: int | None) -> Encoding:
        size = length or int(generator.integers(4, min(60, longest) + 1))
        ids = tuple(generator.integers(0, shape.vocab_size, size).tolist())
        types = tuple(int(place > size // 2) for place in range(size))
        return Encoding(ids, types, ((0, 0),) * size, (0,) * size, (0,) * size, size)

    return make


class CaseMaker:
    """Makes batches of up to `longest` tokens from examples, in order.

    It stops when their outputs would take more than `MAX_OUTPUT_BYTES` together.
    """

    def __init__(self, shape: ModelShape, source: ExampleSource, longest: int) -> None:
        self._shape, self._source, self._longest = shape, source, longest
        self._used = self._index = 0

    def shapes(self, lengths: Sequence[int] | None = None) -> DataSet:
        """Batches of the lengths given, two texts each, or of those that break exports."""
        plans: tuple[_Plan, ...] = (*_ODD_PLANS, _Plan("largest length", (self._longest,)))
        if lengths is not None:
            plans = tuple(_Plan(f"{n} tokens", (n, n)) for n in lengths)
        return DataSet("generated lengths", tuple(self._make(plans)))

    def texts(self, name: str, count: int) -> DataSet:
        """Batches of `count` examples as they come; without labels, the first alone as well."""
        self._index = 0
        plans = _text_plans(count, alone=self._source(0, None).label is None)
        return DataSet(name, tuple(self._make(plans)))

    def _make(self, plans: Iterable[_Plan]) -> Iterator[ParityCase]:
        for plan in plans:
            lengths = [None if n is None else min(n, self._longest) for n in plan.lengths]
            made = [self._source(self._index + i, n) for i, n in enumerate(lengths)]
            self._index += len(made)
            width = plan.pad_to or max(example.length for example in made)
            width = -(-width // plan.pad_to_multiple_of) * plan.pad_to_multiple_of
            # Prompts may have different counts of choices, which are rows.
            for rows in dict.fromkeys(len(example.rows) for example in made):
                alike = [example for example in made if len(example.rows) == rows]
                if case := self._case(plan.name, alike, width):
                    yield case

    def _case(self, name: str, examples: Sequence[Example], width: int) -> ParityCase | None:
        shape = self._shape
        feeds = collate(examples, shape, min(self._longest, width))
        # Padded positions are not kept, and only outputs for each token are large.
        tokens = int(feeds["attention_mask"].sum())
        size = 4 * len(shape.outputs) * tokens * shape.output_shape((1,) * shape.rank)[-1]
        if shape.gliner is not None:
            size = 4 * prod(shape.output_shape_of(feeds))
        if self._used and self._used + size > MAX_OUTPUT_BYTES:
            return None
        self._used += size
        texts = tuple(" | ".join((e.text, *e.second)) for e in examples if e.text or e.second)
        labels = tuple(e.label for e in examples if e.label is not None)
        asked = np.zeros_like(feeds["input_ids"], np.bool_)
        for index, example in enumerate(examples):
            asked[index, list(example.asked)] = True
        return ParityCase(
            name,
            feeds,
            texts,
            labels if len(labels) == len(examples) else None,
            tuple(example.text if example.second else "" for example in examples),
            asked if asked.any() else None,
        )


def _text_plans(count: int, *, alone: bool) -> Iterator[_Plan]:
    if alone:
        yield _Plan("one text", (None,))
    for start in range(0, count, BATCH):
        size = min(BATCH, count - start)
        name = f"texts {start + 1} to {start + size}"
        if start == BATCH:
            yield _Plan(f"{name}, padded to a multiple of 64", (None,) * size, None, 64)
        else:
            yield _Plan(name, (None,) * size)


def _flat(item: TextItem) -> str:
    return " ".join((item.text, *item.second))


def _item(task: Task, texts: Sequence[str]) -> TextItem:
    """What the task takes, made of four texts."""
    first, *others = texts
    if task is Task.MULTIPLE_CHOICE:
        return TextItem(first, tuple(others))
    return TextItem(first, (" ".join(others),) if task is Task.QUESTION_ANSWERING else ())


def _long_item(task: Task, texts: Sequence[TextItem], index: int, length: int) -> TextItem:
    """An item of at least `length` tokens, provided that a text has one or more."""
    # A token is at most a few words; one text a token is enough even for texts of one word.
    characters = 12 * length
    parts: list[str] = []
    for start in range(index, index + 1 + CHOICES_MADE):
        part = _flat(texts[start % len(texts)])
        for place in range(start + 1, start + length + 1):
            if len(part) + 1 >= characters:
                break
            part += " " + _flat(texts[place % len(texts)])
        parts.append(part)
    return _item(task, parts)


def _cut(row: Encoding, length: int) -> Encoding:
    """The first `length` tokens of a row; a row of 1 or 2 tokens has no room for special ones."""
    if len(row) <= length:
        return row
    cut = {name: getattr(row, name)[:length] for name in _PER_TOKEN}
    return replace(row, **cut)


def _finished(encoder: TextEncoder, example: Example, index: int) -> Example:
    """With the tokens that are asked; for masked LM some are masked, at least one if possible."""
    if encoder.task is Task.MULTIPLE_CHOICE:
        return example
    (row,) = example.rows
    if encoder.task is not Task.MASKED_LM:
        parts = (1,) if encoder.task is Task.QUESTION_ANSWERING else (0, 1)
        asked = tuple(i for i, part in enumerate(row.sequence_ids) if part in parts)
        return replace(example, asked=asked)
    places = [i for i, special in enumerate(row.special_tokens_mask) if not special]
    if not places:
        return example
    generator = np.random.default_rng([SEED, index, len(row)])
    count = max(1, round(MASKED_SHARE * len(places)))
    chosen = set(generator.choice(places, count, replace=False).tolist())
    mask = encoder.tokenizer.mask_token_id
    ids = tuple(mask if i in chosen else token for i, token in enumerate(row.input_ids))
    return replace(example, rows=(replace(row, input_ids=ids),), asked=tuple(sorted(chosen)))
