"""What a tokenizer returns, and the names of its options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

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
