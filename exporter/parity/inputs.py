"""Inputs of a parity check: real texts in batches of many shapes, padded and not.

The shapes are those that break exports: one token, odd lengths, very different lengths in a batch,
padding beyond the longest row, the largest length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from exporter.deberta.tasks import Task
from exporter.deberta.tokenization import Encoding
from exporter.errors import InputError
from exporter.runtime.feeds import Ids, ModelShape
from exporter.runtime.text import Example, TextEncoder, TextInput, collate, parse_line

SEED = 20210117
CHOICES = 3
MASKED_SHARE = 0.15
MAX_OUTPUT_BYTES = 3 << 28
"""The reference's outputs are kept until the candidate has run: at most 768 MiB of them."""

DEFAULT_TEXTS = 32
"""Texts compared, beside the odd shapes, when a build does not say."""

_BATCH = 8
_MAX_TEXT_BYTES = 1 << 26


@dataclass(frozen=True)
class ParityCase:
    """One batch.

    Attributes:
        name: what is special about it.
        feeds: int64 arrays by input name, `(B, S)` or `(B, C, S)`.
        texts: the text behind each example; empty where the ids are random.
    """

    name: str
    feeds: Mapping[str, Ids]
    texts: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of every input."""
        return self.feeds["input_ids"].shape

    @property
    def padding(self) -> float:
        """Share of padded positions, 0 to 1."""
        return 1.0 - float(self.feeds["attention_mask"].mean())


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


def read_texts(path: Path) -> tuple[TextInput, ...]:
    """The texts of a UTF-8 file, one a line, a tab between the parts of a pair.

    Empty lines are skipped.

    Raises:
        InputError: the file is missing, too large, not UTF-8 text, or has no text.
    """
    try:
        if path.stat().st_size > _MAX_TEXT_BYTES:
            raise InputError(f"{path}: larger than {_MAX_TEXT_BYTES >> 20} MiB; give fewer texts")
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); one text a line") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if "\0" in content:
        raise InputError(f"{path}: binary data, not text; one text a line")
    texts = tuple(parse_line(line) for line in content.splitlines() if line.strip())
    if not texts:
        raise InputError(f"{path}: no texts; one text a line")
    return texts


def text_examples(encoder: TextEncoder, texts: Sequence[TextInput]) -> ExampleSource:
    """Examples from real texts, in order and from the start again.

    What the task cannot take is made into what it can: neighbouring texts become a question's
    context or a prompt's choices, and a wanted length is reached by joining texts.
    """

    def make(index: int, length: int | None) -> Example:
        item = texts[index % len(texts)]
        if length is not None:
            example = encoder.encode(_long_item(encoder.task, texts, index, length), max(length, 3))
            rows = tuple(_cut(row, length) for row in example.rows)
            return Example(example.text, example.second, _mask_some(encoder, rows, index))
        if not _fits(encoder.task, item):
            item = _item(encoder.task, [_flat(texts[(index + k) % len(texts)]) for k in range(4)])
        example = encoder.encode(item)
        return Example(example.text, example.second, _mask_some(encoder, example.rows, index))

    return make


def random_examples(shape: ModelShape, longest: int) -> ExampleSource:
    """Examples of seeded random ids, for a checkpoint without tokenizer."""

    def make(index: int, length: int | None) -> Example:
        generator = np.random.default_rng([SEED, index, length or 0])
        count = CHOICES if shape.task is Task.MULTIPLE_CHOICE else 1
        rows = []
        for _ in range(count):
            size = length or int(generator.integers(4, min(60, longest) + 1))
            ids = generator.integers(0, shape.config.vocab_size, size)
            types = (np.arange(size) > size // 2).astype(int)
            rows.append(_encoding(ids.tolist(), types.tolist()))
        return Example("", (), tuple(rows))

    return make


def make_cases(
    shape: ModelShape, source: ExampleSource, count: int, longest: int, batch: int = _BATCH
) -> tuple[ParityCase, ...]:
    """The cases of a check: odd shapes first, then `count` texts as they come.

    Args:
        shape: the model.
        source: makes the examples.
        count: texts to compare in batches of their natural lengths.
        longest: largest length in tokens.
        batch: size of those batches.

    Returns:
        cases whose outputs take at most `MAX_OUTPUT_BYTES` together; what goes beyond is left out.
    """
    cases: list[ParityCase] = []
    used = index = 0
    for plan in _plans(longest, count, batch):
        examples = [source(index + i, length) for i, length in enumerate(plan.lengths)]
        index += len(examples)
        width = plan.pad_to or max(example.length for example in examples)
        width = min(longest, -(-width // plan.pad_to_multiple_of) * plan.pad_to_multiple_of)
        for part in _by_rows(examples):
            feeds = collate(part, shape, width)
            # Padded positions are not kept, and only outputs for each token are large.
            tokens = int(feeds["attention_mask"].sum())
            size = 4 * len(shape.outputs) * tokens * shape.output_shape((1,) * shape.rank)[-1]
            if cases and used + size > MAX_OUTPUT_BYTES:
                continue
            used += size
            texts = tuple(" | ".join((e.text, *e.second)) for e in part if e.text or e.second)
            cases.append(ParityCase(plan.name, feeds, texts))
    return tuple(cases)


def _plans(longest: int, count: int, batch: int) -> Iterable[_Plan]:
    """The cases to make; lengths beyond the largest are shortened to it."""
    odd = (
        _Plan("one token", (1,)),
        _Plan("two tokens", (2, 2)),
        _Plan("odd length, no padding", (7, 7, 7)),
        _Plan("padded twice as long", (33, 33), pad_to=66),
        _Plan("very different lengths", (1, 129, 5, 63, 2)),
        _Plan("largest length", (longest,)),
    )
    for plan in odd:
        lengths = tuple(None if n is None else min(n, longest) for n in plan.lengths)
        yield replace(plan, lengths=lengths)
    yield _Plan("one text", (None,))
    for start in range(0, count, batch):
        size = min(batch, count - start)
        multiple = 64 if start == batch else 1
        name = "texts, padded to a multiple of 64" if multiple > 1 else "texts"
        yield _Plan(name, (None,) * size, pad_to_multiple_of=multiple)


def _by_rows(examples: Sequence[Example]) -> list[list[Example]]:
    """Examples in groups of equal numbers of rows: prompts may have different counts of choices."""
    groups: dict[int, list[Example]] = {}
    for example in examples:
        groups.setdefault(len(example.rows), []).append(example)
    return list(groups.values())


def _flat(item: TextInput) -> str:
    """All parts of an item as one text."""
    if isinstance(item, str):
        return item
    return " ".join((item[0], *((item[1],) if isinstance(item[1], str) else item[1])))


def _fits(task: Task, item: TextInput) -> bool:
    """Whether the task takes an item as it is."""
    if isinstance(item, str):
        return task not in (Task.MULTIPLE_CHOICE, Task.QUESTION_ANSWERING)
    return isinstance(item[1], str) != (task is Task.MULTIPLE_CHOICE)


def _item(task: Task, texts: Sequence[str]) -> TextInput:
    """What the task takes, made of four texts."""
    if task is Task.MULTIPLE_CHOICE:
        return (texts[0], tuple(texts[1 : 1 + CHOICES]))
    if task is Task.QUESTION_ANSWERING:
        return (texts[0], " ".join(texts[1:]))
    return texts[0]


def _long_item(task: Task, texts: Sequence[TextInput], index: int, length: int) -> TextInput:
    """An item of at least `length` tokens, provided that a text has one or more."""
    # A token is at most a few words; one text a token is enough even for texts of one word.
    characters = 12 * length
    parts: list[str] = []
    for start in range(4):
        words: list[str] = []
        size = 0
        for offset in range(length + 1):
            words.append(_flat(texts[(index + start + offset) % len(texts)]))
            size += len(words[-1]) + 1
            if size >= characters:
                break
        parts.append(" ".join(words))
    return _item(task, parts)


def _cut(row: Encoding, length: int) -> Encoding:
    """The first `length` tokens of a row; a row of 1 or 2 tokens has no room for special ones."""
    if len(row) <= length:
        return row
    return replace(
        row,
        input_ids=row.input_ids[:length],
        token_type_ids=row.token_type_ids[:length],
        attention_mask=row.attention_mask[:length],
        special_tokens_mask=row.special_tokens_mask[:length],
        offsets=row.offsets[:length],
        sequence_ids=row.sequence_ids[:length],
        truncated=True,
    )


def _mask_some(
    encoder: TextEncoder, rows: tuple[Encoding, ...], index: int
) -> tuple[Encoding, ...]:
    """For masked LM, the rows with some tokens replaced by the mask, at least one if possible."""
    if encoder.task is not Task.MASKED_LM:
        return rows
    (row,) = rows
    places = [i for i, special in enumerate(row.special_tokens_mask) if not special]
    if not places:
        return rows
    generator = np.random.default_rng([SEED, index, len(row)])
    count = max(1, round(MASKED_SHARE * len(places)))
    chosen = set(generator.choice(places, count, replace=False).tolist())
    mask = encoder.tokenizer.mask_token_id
    ids = tuple(mask if i in chosen else token for i, token in enumerate(row.input_ids))
    return (replace(row, input_ids=ids),)


def _encoding(ids: list[int], types: list[int]) -> Encoding:
    size = len(ids)
    return Encoding(
        input_ids=tuple(ids),
        token_type_ids=tuple(types),
        attention_mask=(1,) * size,
        special_tokens_mask=(0,) * size,
        offsets=((0, 0),) * size,
        sequence_ids=(0,) * size,
        truncated=False,
    )
