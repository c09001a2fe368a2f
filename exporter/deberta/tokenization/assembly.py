"""From the tokens of the texts to model input: special tokens, types, padding.

DeBERTa's format is `[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`; B and the `[SEP]` after it have
token type 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from exporter.deberta.tokenization.types import BatchEncoding, Encoding, Padding, Segment, Side
from exporter.errors import InputError

_NO_OFFSET = (0, 0)


def num_special_tokens(is_pair: bool) -> int:
    """How many special tokens `assemble` adds."""
    return 3 if is_pair else 2


def assemble(
    first: Segment, second: Segment | None, special_ids: tuple[int, int] | None, truncated: bool
) -> Encoding:
    """Joins the segments; `special_ids` are those of `[CLS]` and `[SEP]`, None to add neither."""
    count = len(first)
    if special_ids is None:
        return _encoding(
            first.ids + (second.ids if second else ()),
            (0,) * count + (1,) * (len(second) if second else 0),
            first.offsets + (second.offsets if second else ()),
            (0,) * count + (1,) * (len(second) if second else 0),
            truncated,
        )
    cls_id, sep_id = special_ids
    ids: tuple[int, ...] = (cls_id, *first.ids, sep_id)
    types: tuple[int, ...] = (0,) * (count + 2)
    offsets: tuple[tuple[int, int], ...] = (_NO_OFFSET, *first.offsets, _NO_OFFSET)
    sequences: tuple[int | None, ...] = (None, *(0,) * count, None)
    if second is not None:
        ids += (*second.ids, sep_id)
        types += (1,) * (len(second) + 1)
        offsets += (*second.offsets, _NO_OFFSET)
        sequences += (*(1,) * len(second), None)
    return _encoding(ids, types, offsets, sequences, truncated)


def _encoding(
    ids: tuple[int, ...],
    types: tuple[int, ...],
    offsets: tuple[tuple[int, int], ...],
    sequences: tuple[int | None, ...],
    truncated: bool,
) -> Encoding:
    return Encoding(
        input_ids=ids,
        token_type_ids=types,
        attention_mask=(1,) * len(ids),
        special_tokens_mask=tuple(int(s is None) for s in sequences),
        offsets=offsets,
        sequence_ids=sequences,
        truncated=truncated,
    )


def padded_length(
    lengths: Sequence[int], padding: Padding, max_length: int | None, multiple_of: int | None
) -> int:
    """The length S of the padded arrays.

    Raises InputError for an unknown `padding`, for "max_length" without a maximum, and for a
    `multiple_of` below 1.
    """
    if multiple_of is not None and (not isinstance(multiple_of, int) or multiple_of < 1):
        raise InputError(f"pad_to_multiple_of must be a positive integer, got {multiple_of!r}")
    length = max(lengths, default=0)
    if padding == "max_length":
        if max_length is None:
            raise InputError(
                'padding "max_length" needs max_length: tokenizer_config.json sets no maximum'
            )
        length = max(length, max_length)
    elif padding != "longest":
        raise InputError(f'padding must be "longest" or "max_length", got {padding!r}')
    if multiple_of is not None:
        length = -(-length // multiple_of) * multiple_of
    return length


def pad(encodings: Sequence[Encoding], length: int, pad_id: int, side: Side) -> BatchEncoding:
    """Arrays of shape (len(encodings), length); padding goes to the given side."""

    def filled(rows: Sequence[tuple[int, ...]], fill: int) -> npt.NDArray[np.int64]:
        out = np.full((len(rows), length), fill, dtype=np.int64)
        for array, row in zip(out, rows, strict=True):
            start = length - len(row) if side == "left" else 0
            array[start : start + len(row)] = row
        return out

    return BatchEncoding(
        input_ids=filled([e.input_ids for e in encodings], pad_id),
        attention_mask=filled([e.attention_mask for e in encodings], 0),
        token_type_ids=filled([e.token_type_ids for e in encodings], 0),
        special_tokens_mask=filled([e.special_tokens_mask for e in encodings], 1),
        encodings=tuple(encodings),
    )
