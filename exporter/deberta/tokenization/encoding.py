"""From the tokens of the texts to model input: truncation, special tokens, types, padding.

DeBERTa's format is `[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`; B and the `[SEP]` after it have
token type 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from exporter.errors import InputError

Truncation = Literal["longest_first", "only_first", "only_second", "do_not_truncate"]
Side = Literal["right", "left"]
Kind = Literal["sentencepiece", "fast"]


@dataclass(frozen=True)
class Segment:
    """The tokens of one text without special ones.

    `offsets` are (start, end) in code points, `words` the number of the word that each is a part
    of: what white space, added tokens and, where the tokenizer splits it off, punctuation bound.
    """

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    words: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def cut(self, length: int, side: Side) -> Segment:
        """The `length` tokens that stay; `side` is where tokens are dropped."""
        if length == len(self):
            return self
        return self.part(len(self) - length if side == "left" else 0, length)

    def part(self, first: int, length: int) -> Segment:
        """At most `length` tokens from `first` on."""
        kept = slice(first, first + length)
        return Segment(self.ids[kept], self.offsets[kept], self.words[kept])


@dataclass(frozen=True)
class Encoding:
    """One text or pair, not padded. All tuples have one entry per token.

    `offsets` are (start, end) in characters of the original text, of the pair's own text where
    `sequence_ids` is 1, and (0, 0) for special tokens that the tokenizer added. As in Hugging
    Face's fast tokenizers a token that begins a word usually includes the white space before it.
    `sequence_ids` is 0 or 1 for tokens of the texts, None for added ones; `words` is the number of
    the word in its text, None for added ones. `total` counts the tokens of the whole, the added
    ones too; `skipped` those of the cut text before this window, see `Tokenizer.encode_windows`.
    """

    input_ids: tuple[int, ...]
    token_type_ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    sequence_ids: tuple[int | None, ...]
    words: tuple[int | None, ...]
    total: int
    skipped: int = 0

    @property
    def truncated(self) -> bool:
        """Whether tokens of the whole are not here."""
        return len(self) < self.total

    @property
    def attention_mask(self) -> tuple[int, ...]:
        """1 for every token."""
        return (1,) * len(self)

    @property
    def special_tokens_mask(self) -> tuple[int, ...]:
        """1 for the special tokens that the tokenizer added; a `[MASK]` in the text is text."""
        return tuple(int(sequence is None) for sequence in self.sequence_ids)

    def __len__(self) -> int:
        return len(self.input_ids)


def kept_lengths(lengths: list[int], budget: int, truncation: Truncation, kind: Kind) -> list[int]:
    """Token counts of one text or two that fit into `budget` tokens, special tokens not counted.

    Raises InputError when the strategy cannot reach the budget: `only_first` and `only_second` keep
    at least one token of the text they cut, as both Hugging Face tokenizers do.
    """
    if truncation == "only_second" and len(lengths) == 1:
        raise InputError('truncation "only_second" needs a pair, but there is no second text')
    if truncation == "do_not_truncate" or sum(lengths) <= budget:
        return lengths
    if truncation == "longest_first":
        return [budget] if len(lengths) == 1 else _longest_first(lengths, budget, kind)
    cut = 0 if truncation == "only_first" else 1
    kept = lengths[cut] + budget - sum(lengths)
    if kept < 1:
        name = truncation.removeprefix("only_")
        raise InputError(
            f'truncation "{truncation}": the {name} text ({lengths[cut]} tokens) would have to '
            f'shrink to {max(kept, 0)} tokens; raise max_length or use "longest_first"'
        )
    return [kept if index == cut else length for index, length in enumerate(lengths)]


def _longest_first(lengths: list[int], budget: int, kind: Kind) -> list[int]:
    """Cuts the longer text down to the shorter one, then both alike.

    An odd budget leaves one token over. transformers' slow tokenizer drops single tokens from the
    longer text, the second on a draw, so the first text gets it; the `tokenizers` library gives it
    to the text that was the longer one, and to the second on a draw.
    """
    first, second = lengths
    shorter = min(lengths)
    if shorter <= budget // 2:
        return [first, budget - first] if first == shorter else [budget - second, second]
    small, large = budget // 2, budget - budget // 2
    return [large, small] if kind == "sentencepiece" or first > second else [small, large]


def window_starts(length: int, size: int, stride: int) -> list[int]:
    """First tokens of windows of `size` that cover `length` tokens, each with the `stride` last
    tokens of the one before: those of `return_overflowing_tokens` in the `tokenizers` library.
    """
    return list(range(0, max(length - stride, 1), size - stride))


def assemble(
    segments: Sequence[Segment], special_ids: tuple[int, ...], dropped: int, skipped: int = 0
) -> Encoding:
    """Joins one or two segments; `special_ids` are those of `[CLS]` and `[SEP]`, or none at all.

    `dropped` tokens of the texts are not in the segments, `skipped` of them before a window.
    """
    ids: tuple[int, ...] = ()
    types: tuple[int, ...] = ()
    offsets: tuple[tuple[int, int], ...] = ()
    sequences: tuple[int | None, ...] = ()
    words: tuple[int | None, ...] = ()
    for index, segment in enumerate(segments):
        before, after = special_ids[: int(index == 0)], special_ids[1:]
        ids += before + segment.ids + after
        types += (index,) * len(before + segment.ids + after)
        offsets += ((0, 0),) * len(before) + segment.offsets + ((0, 0),) * len(after)
        sequences += (None,) * len(before) + (index,) * len(segment) + (None,) * len(after)
        words += (None,) * len(before) + segment.words + (None,) * len(after)
    return Encoding(ids, types, offsets, sequences, words, len(ids) + dropped, skipped)
