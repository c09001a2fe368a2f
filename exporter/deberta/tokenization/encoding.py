"""From the tokens of the texts to model input: truncation, special tokens, types, padding.

DeBERTa's format is `[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`; B and the `[SEP]` after it have
token type 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from exporter.errors import InputError

Truncation = Literal["longest_first", "only_first", "only_second", "do_not_truncate"]
Padding = Literal["longest", "max_length"]
Side = Literal["right", "left"]
Kind = Literal["sentencepiece", "fast"]


@dataclass(frozen=True)
class Segment:
    """The tokens of one text, with no special token added around them.

    `offsets` are (start, end) in characters (code points) of the text that was passed in.
    """

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.ids)

    def cut(self, length: int, side: Side) -> Segment:
        """The `length` tokens that stay; `side` is where tokens are dropped."""
        if length == len(self):
            return self
        kept = slice(len(self) - length, None) if side == "left" else slice(0, length)
        return Segment(self.ids[kept], self.offsets[kept])


@dataclass(frozen=True)
class Encoding:
    """One text or pair, not padded. All tuples have one entry per token.

    `offsets` are (start, end) in characters of the original text, of the pair's own text where
    `sequence_ids` is 1, and (0, 0) for special tokens that the tokenizer added. As in Hugging
    Face's fast tokenizers a token that begins a word usually includes the white space before it.
    `special_tokens_mask` is 1 for the special tokens that the tokenizer added; a `[MASK]` typed in
    the text counts as text. `sequence_ids` is 0 or 1 for tokens of the texts, None for added ones.
    `truncated` is True when tokens were dropped.
    """

    input_ids: tuple[int, ...]
    token_type_ids: tuple[int, ...]
    attention_mask: tuple[int, ...]
    special_tokens_mask: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    sequence_ids: tuple[int | None, ...]
    truncated: bool

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class BatchEncoding:
    """Padded arrays, int64 of shape (B, S), and the encodings they were made from.

    At padding positions `attention_mask` and `token_type_ids` are 0 and `special_tokens_mask` is 1.
    """

    input_ids: npt.NDArray[np.int64]
    attention_mask: npt.NDArray[np.int64]
    token_type_ids: npt.NDArray[np.int64]
    special_tokens_mask: npt.NDArray[np.int64]
    encodings: tuple[Encoding, ...]


def kept_lengths(
    first: int, second: int | None, budget: int, truncation: Truncation, kind: Kind
) -> tuple[int, int | None]:
    """Token counts of the two texts that fit into `budget` tokens, special tokens not counted.

    `second` is None where there is no second text. Raises InputError when the strategy cannot
    reach the budget: `only_first` and `only_second` keep at least one token of the text they cut,
    as both Hugging Face tokenizers do.
    """
    if truncation == "only_second" and second is None:
        raise InputError('truncation "only_second" needs a pair, but there is no second text')
    if truncation == "do_not_truncate" or first + (second or 0) <= budget:
        return first, second
    if truncation == "only_second" and second is not None:
        return first, _cut_one(second, budget - first, "second")
    if truncation == "only_first":
        return _cut_one(first, budget - (second or 0), "first"), second
    if second is None:
        return budget, None
    return _longest_first(first, second, budget, kind)


def _cut_one(length: int, kept: int, name: str) -> int:
    if kept < 1:
        raise InputError(
            f'truncation "only_{name}": the {name} text ({length} tokens) would have to shrink to '
            f'{max(kept, 0)} tokens; raise max_length or use "longest_first"'
        )
    return kept


def _longest_first(first: int, second: int, budget: int, kind: Kind) -> tuple[int, int]:
    """Cuts the longer text down to the shorter one, then both alike.

    An odd budget leaves one token over. transformers' slow tokenizer drops single tokens from the
    longer text, the second on a draw, so the first text gets it; the `tokenizers` library gives it
    to the text that was the longer one, and to the second on a draw.
    """
    shorter = min(first, second)
    if shorter <= budget // 2:
        return (first, budget - first) if first == shorter else (budget - second, second)
    small, large = budget // 2, budget - budget // 2
    if kind == "sentencepiece" or first > second:
        return large, small
    return small, large


def assemble(
    first: Segment, second: Segment | None, special_ids: tuple[int, int] | None, truncated: bool
) -> Encoding:
    """Joins the segments; `special_ids` are those of `[CLS]` and `[SEP]`, None to add neither."""
    ids: tuple[int, ...] = ()
    types: tuple[int, ...] = ()
    offsets: tuple[tuple[int, int], ...] = ()
    sequences: tuple[int | None, ...] = ()
    for index, segment in enumerate((first,) if second is None else (first, second)):
        before = after = 0
        if special_ids is not None:
            before, after = int(index == 0), 1
            ids += special_ids[:before] + segment.ids + special_ids[1:]
        else:
            ids += segment.ids
        types += (index,) * (before + len(segment) + after)
        offsets += ((0, 0),) * before + segment.offsets + ((0, 0),) * after
        sequences += (None,) * before + (index,) * len(segment) + (None,) * after
    return Encoding(
        input_ids=ids,
        token_type_ids=types,
        attention_mask=(1,) * len(ids),
        special_tokens_mask=tuple(int(s is None) for s in sequences),
        offsets=offsets,
        sequence_ids=sequences,
        truncated=truncated,
    )


def pad(
    encodings: Sequence[Encoding],
    padding: Padding,
    max_length: int | None,
    multiple_of: int | None,
    pad_id: int,
    side: Side,
) -> BatchEncoding:
    """Arrays of shape (len(encodings), S), padded at the given side.

    Raises InputError for an unknown `padding`, for "max_length" without a maximum, and for a
    `multiple_of` below 1.
    """
    if multiple_of is not None and (not isinstance(multiple_of, int) or multiple_of < 1):
        raise InputError(f"pad_to_multiple_of must be a positive integer, got {multiple_of!r}")
    if padding not in get_args(Padding):
        raise InputError(f'padding must be "longest" or "max_length", got {padding!r}')
    length = max(map(len, encodings), default=0)
    if padding == "max_length":
        if max_length is None:
            raise InputError(
                'padding "max_length" needs max_length: tokenizer_config.json sets no maximum'
            )
        length = max(length, max_length)
    if multiple_of is not None:
        length = -(-length // multiple_of) * multiple_of

    def filled(name: str, fill: int) -> npt.NDArray[np.int64]:
        out = np.full((len(encodings), length), fill, dtype=np.int64)
        for array, encoding in zip(out, encodings, strict=True):
            start = length - len(encoding) if side == "left" else 0
            array[start : start + len(encoding)] = getattr(encoding, name)
        return out

    return BatchEncoding(
        input_ids=filled("input_ids", pad_id),
        attention_mask=filled("attention_mask", 0),
        token_type_ids=filled("token_type_ids", 0),
        special_tokens_mask=filled("special_tokens_mask", 1),
        encodings=tuple(encodings),
    )
