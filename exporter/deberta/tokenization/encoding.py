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
    """The tokens of one text without special ones; `offsets` are (start, end) in code points."""

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
    `sequence_ids` is 0 or 1 for tokens of the texts, None for added ones. `truncated` is True when
    tokens were dropped.
    """

    input_ids: tuple[int, ...]
    token_type_ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    sequence_ids: tuple[int | None, ...]
    truncated: bool

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


def assemble(
    segments: Sequence[Segment], special_ids: tuple[int, ...], truncated: bool
) -> Encoding:
    """Joins one or two segments; `special_ids` are those of `[CLS]` and `[SEP]`, or none at all."""
    ids: tuple[int, ...] = ()
    types: tuple[int, ...] = ()
    offsets: tuple[tuple[int, int], ...] = ()
    sequences: tuple[int | None, ...] = ()
    for index, segment in enumerate(segments):
        before, after = special_ids[: int(index == 0)], special_ids[1:]
        ids += before + segment.ids + after
        types += (index,) * len(before + segment.ids + after)
        offsets += ((0, 0),) * len(before) + segment.offsets + ((0, 0),) * len(after)
        sequences += (None,) * len(before) + (index,) * len(segment) + (None,) * len(after)
    return Encoding(ids, types, offsets, sequences, truncated)
