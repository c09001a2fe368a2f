"""How many tokens of each text stay when a text or pair is longer than allowed."""

from __future__ import annotations

from typing import get_args

from exporter.deberta.tokenization.types import Kind, Segment, Side, Truncation
from exporter.errors import InputError


def check_truncation(truncation: object) -> None:
    """InputError when `truncation` is not one of the strategies."""
    if truncation not in get_args(Truncation):
        choices = ", ".join(get_args(Truncation))
        raise InputError(f"truncation must be one of {choices}, got {truncation!r}")


def kept_lengths(
    first: int, second: int | None, budget: int, truncation: Truncation, kind: Kind
) -> tuple[int, int | None]:
    """Token counts of the two texts that fit into `budget` tokens, special tokens not counted.

    `second` is None where there is no second text. Raises InputError when the strategy cannot
    reach the budget: `only_first` and `only_second` keep at least one token of the text they cut,
    as both Hugging Face tokenizers do.
    """
    total = first + (second or 0)
    if truncation == "only_second" and second is None:
        raise InputError('truncation "only_second" needs a pair, but there is no second text')
    if truncation == "do_not_truncate" or total <= budget:
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


def cut(segment: Segment, length: int, side: Side) -> Segment:
    """The `length` tokens of `segment` that stay; `side` is where tokens are dropped."""
    if length == len(segment):
        return segment
    kept = slice(len(segment) - length, None) if side == "left" else slice(0, length)
    return Segment(segment.ids[kept], segment.offsets[kept])
