"""Texts and labels as GLiNER reads them: the words, the prompt of the labels, windows.

As `gliner.data_processing` 0.2 makes them, but for words that the tokenizer gives no token, such as
control characters: they are left out here, and count there, where every later word moves by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from calibration.texts import TextItem
from exporter.deberta.tokenization import Encoding
from exporter.deberta.tokenization.encoding import Truncation
from exporter.errors import InputError
from exporter.inputs.encode import Example, TextEncoder, TextInput, as_item
from exporter.model.gliner_head import GlinerHead

DEFAULT_LABELS = ("person", "organization", "location", "date", "product", "event")
"""What is asked of texts that come without labels, to calibrate and to judge."""

_WORD = re.compile(r"\w+(?:[-_]\w+)*|\S")
_CACHED = 1 << 16

Ids = tuple[int, ...]


@dataclass(frozen=True)
class GlinerEncoder(TextEncoder):
    """A tokenizer with the prompt and the words of a GLiNER model; `second` of a text are labels.

    Raises:
        InputError: the tokenizer is another model's: it does not know the labels' token.
    """

    head: GlinerHead = field(default_factory=GlinerHead)

    def __post_init__(self) -> None:
        tokenize: Callable[[str], Ids] = lru_cache(_CACHED)(self._tokenize)
        object.__setattr__(self, "_ids", tokenize)
        mark = tokenize(self.head.ent_token)
        if mark != (self.head.class_token_index,):
            raise InputError(
                f"the tokenizer reads {self.head.ent_token} as {list(mark)}, the model as "
                f"{self.head.class_token_index} (class_token_index); give the tokenizer that the "
                "model was saved with"
            )

    def encode(
        self,
        given: TextInput,
        max_length: int | None = None,
        truncation: Truncation = "longest_first",
    ) -> Example:
        """One text, cut to whole words within `max_length` tokens, at least one word."""
        del truncation  # there is one way to cut
        item = self._item(given)
        limit = self.max_length if max_length is None else max_length
        return self._windows(item.text, item.second or DEFAULT_LABELS, limit, None)[0]

    def windows(self, given: TextInput, stride: int | None = None) -> tuple[Example, ...]:
        """One text in windows of whole words that share at least `stride` tokens.

        By default they share half of a window, at most 128 tokens. Raises InputError for labels
        that cannot be asked, or that leave no room.
        """
        item = self._item(given)
        labels = item.second or DEFAULT_LABELS
        return self._windows(item.text, labels, self.max_length, stride)

    def _tokenize(self, word: str) -> Ids:
        return self.tokenizer.encode(
            word, add_special_tokens=False, truncation="do_not_truncate"
        ).input_ids

    def _prompt(self, labels: Sequence[str]) -> tuple[Ids, tuple[int | None, ...]]:
        """The tokens of the prompt, and whether each is part of a label (1) or a mark (None)."""
        ids: Ids = ()
        parts: tuple[int | None, ...] = ()
        for label in checked_labels(labels, self.head):
            words = self._ids(label)  # type: ignore[attr-defined]
            if not words:
                raise InputError(f"label {label!r}: the tokenizer has no token for it")
            ids += (self.head.class_token_index, *words)
            parts += (None, *(1 for _ in words))
        end = self._ids(self.head.sep_token)  # type: ignore[attr-defined]
        return ids + end, parts + (None,) * len(end)

    def _windows(
        self, text: str, labels: tuple[str, ...], limit: int, stride: int | None
    ) -> tuple[Example, ...]:
        prompt = self._prompt(labels)
        room = limit - len(prompt[0]) - 2
        if room < 1:
            raise InputError(
                f"{len(labels)} labels take {len(prompt[0])} of the {limit} tokens of a window and "
                "leave no room for a word; give fewer of them, or build with a larger --seq"
            )
        found = [
            (match.span(), self._ids(match.group()))  # type: ignore[attr-defined]
            for match in _WORD.finditer(text)
        ]
        words = [(span, ids) for span, ids in found if ids]
        shared = min(128, room // 2) if stride is None else stride
        total = len(prompt[0]) + 2 + sum(len(ids) for _, ids in words)
        made: list[Example] = []
        first = 0
        while True:
            stop = self._fitting(words, first, room)
            made.append(self._example(text, labels, prompt, words, (first, stop), room, total))
            if stop >= len(words):
                return tuple(made)
            first = self._next(words, first, stop, shared)

    def _fitting(self, words: Sequence[tuple[Any, Ids]], first: int, room: int) -> int:
        """The word behind the last that fits, with one at least."""
        stop, used = first, 0
        while stop < len(words) and stop - first < self.head.max_len:
            used += len(words[stop][1])
            if used > room and stop > first:
                break
            stop += 1
        return stop

    def _next(self, words: Sequence[tuple[Any, Ids]], first: int, stop: int, shared: int) -> int:
        """The first word of the window behind that of the words `first` to `stop`."""
        start, used = stop, 0
        while start > first + 1 and stop - start < self.head.max_len // 2:
            used += len(words[start - 1][1])
            if used > shared:
                break
            start -= 1
        return start

    def _example(
        self,
        text: str,
        labels: tuple[str, ...],
        prompt: tuple[Ids, tuple[int | None, ...]],
        words: Sequence[tuple[tuple[int, int], Ids]],
        window: tuple[int, int],
        room: int,
        total: int,
    ) -> Example:
        first, stop = window
        some = words[first:stop]
        ids = [token for _, tokens in some for token in tokens][:room]
        owner = [place for place, (_, tokens) in enumerate(some) for _ in tokens][:room]
        row = Encoding(
            input_ids=(self.tokenizer.cls_token_id, *prompt[0], *ids, self.tokenizer.sep_token_id),
            token_type_ids=(0,) * (len(prompt[0]) + len(ids) + 2),
            offsets=((0, 0),) * (1 + len(prompt[0])) + tuple(some[n][0] for n in owner) + ((0, 0),),
            sequence_ids=(None, *prompt[1], *(0 for _ in ids), None),
            words=(None,) * (1 + len(prompt[0])) + (*owner, None),
            total=total,
            skipped=sum(len(tokens) for _, tokens in words[:first]),
        )
        spans = tuple(span for span, _ in some)
        return Example(text, labels, (row,), words=spans, first_word=first)


def checked_labels(labels: Sequence[str], head: GlinerHead) -> tuple[str, ...]:
    """The labels as they are asked.

    Raises InputError for none, an empty or repeated one, or one that has a token of the prompt.
    """
    if isinstance(labels, str):
        raise InputError(f"labels are one text, {labels!r}; give a list of labels")
    if not labels:
        raise InputError("no labels; give one or more")
    for index, label in enumerate(labels):
        if not isinstance(label, str) or not label.strip():
            raise InputError(f"label {label!r} is empty; give a word or a phrase")
        for token in (head.ent_token, head.sep_token):
            if token in label:
                raise InputError(f"label {label!r} has {token}, which stands between labels")
        if label in labels[:index]:
            raise InputError(f"label {label!r} is given twice; leave one out")
    return tuple(labels)


def with_labels(
    texts: Iterable[TextInput], labels: Sequence[str] | None, head: GlinerHead
) -> Iterator[TextInput]:
    """The texts with what they are asked for: `labels`, or those that each brings as its second.

    Raises InputError for labels that cannot be asked, or for both or neither of them.
    """
    if isinstance(texts, str):
        raise InputError("texts is one text; give a list of texts")
    asked = () if labels is None else checked_labels(labels, head)
    return (_asked(as_item(given), asked) for given in texts)


def _asked(item: TextItem, labels: tuple[str, ...]) -> TextItem:
    if labels and item.second:
        raise InputError(f"{item.text[:60]!r}: has labels of its own; leave the entities out")
    if not labels and not item.second:
        raise InputError("no labels to find; give entities, as in entities=['person', 'place']")
    return replace(item, second=labels or item.second)
