"""Token ids in padded batches by length, their identity, and what is suspect about them.

Texts are tokenized elsewhere: a sequence here is a tuple of ids that is whole and truncated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from calibration.errors import CalibrationError

Ids = NDArray[np.int64]
T = TypeVar("T")

TOKEN_BUDGET = 4096
"""Ids of a batch, padding included."""
UNKNOWN_SHARE = 0.1
"""More unknown tokens than this and the text is hardly the model's language."""


@dataclass(frozen=True)
class TokenSequence:
    """One tokenized text or pair.

    Attributes:
        ids: token ids with the special tokens.
        types: token type of each id; empty where all are 0.
    """

    ids: tuple[int, ...]
    types: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Batch:
    """Padded sequences, longest first.

    Attributes:
        input_ids: (B, S) int64.
        attention_mask: (B, S) int64, 1 for a token.
        token_type_ids: (B, S) int64, 0 at padding.
        rows: index of each row in the sequences that the batches were made of.
    """

    input_ids: Ids
    attention_mask: Ids
    token_type_ids: Ids
    rows: tuple[int, ...]

    def feeds(self, names: Collection[str], rank: int = 2) -> dict[str, Ids]:
        """The inputs `names` of a model.

        Args:
            names: of `input_ids`, `attention_mask` and `token_type_ids`.
            rank: 2 for `(B, S)`; 3 for multiple choice, each row the one choice of `(B, 1, S)`.
        """
        arrays = {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "token_type_ids": self.token_type_ids,
        }
        return {name: arrays[name] if rank == 2 else arrays[name][:, None] for name in names}


def make_batches(
    sequences: Sequence[TokenSequence], *, token_budget: int = TOKEN_BUDGET, pad_id: int = 0
) -> tuple[Batch, ...]:
    """Sort by length, longest first, and pad as many as fit into the budget.

    The longest come first so that a lack of memory shows at once. A sequence longer than the
    budget is a batch of its own. Equal lengths keep their order.

    Args:
        sequences: at least one id each.
        token_budget: ids of a batch at most, padding included.
        pad_id: id at padded positions.

    Raises:
        CalibrationError: there is no sequence, one is empty, or the budget is not positive.
    """
    if token_budget < 1:
        raise CalibrationError(f"token budget {token_budget}; give at least 1")
    if not sequences:
        raise CalibrationError("there is no calibration text")
    for index, item in enumerate(sequences):
        if not item.ids:
            raise CalibrationError(f"calibration text {index + 1} has no token")
        if item.types and len(item.types) != len(item.ids):
            raise ValueError(f"{len(item.types)} types for {len(item.ids)} ids")
    order = sorted(range(len(sequences)), key=lambda index: -len(sequences[index].ids))
    batches = []
    start = 0
    while start < len(order):
        rows = max(1, token_budget // len(sequences[order[start]].ids))
        batches.append(_pad(sequences, order[start : start + rows], pad_id))
        start += rows
    return tuple(batches)


def _pad(sequences: Sequence[TokenSequence], rows: Sequence[int], pad_id: int) -> Batch:
    shape = (len(rows), max(len(sequences[row].ids) for row in rows))
    ids, mask = np.full(shape, pad_id, np.int64), np.zeros(shape, np.int64)
    types = np.zeros(shape, np.int64)
    for line, row in enumerate(rows):
        item = sequences[row]
        length = len(item.ids)
        ids[line, :length] = item.ids
        mask[line, :length] = 1
        if item.types:
            types[line, :length] = item.types
    return Batch(ids, mask, types, tuple(rows))


def in_original_order(batches: Sequence[Batch], results: Iterable[Sequence[T]]) -> list[T]:
    """Results per batch and row, as one list in the order of the sequences.

    Raises:
        ValueError: there are not as many results as rows.
    """
    by_row: dict[int, T] = {}
    for batch, values in zip(batches, results, strict=True):
        by_row.update(zip(batch.rows, values, strict=True))
    return [by_row[row] for row in sorted(by_row)]


def data_hash(sequences: Iterable[TokenSequence]) -> str:
    """SHA-256, in hexadecimal, of the sequences in whatever order."""
    digests = sorted(_digest(item) for item in sequences)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _digest(item: TokenSequence) -> bytes:
    # Types that are all 0 may be left out.
    numbers = [len(item.ids), *item.ids, *(item.types if any(item.types) else ())]
    return hashlib.sha256(np.array(numbers, "<i8").tobytes()).digest()


def token_warnings(
    sequences: Sequence[TokenSequence], *, unknown_id: int, special_ids: Collection[int]
) -> tuple[str, ...]:
    """What the tokens say against the text, one sentence each.

    Args:
        sequences: tokenized calibration text.
        unknown_id: id of what the vocabulary lacks.
        special_ids: ids that are no text, such as those of padding, begin and end.

    Raises:
        CalibrationError: no sequence has a token of text, or all of them are unknown.
    """
    special = set(special_ids) - {unknown_id}
    lengths = [sum(token not in special for token in item.ids) for item in sequences]
    total = sum(lengths)
    unknown = sum(item.ids.count(unknown_id) for item in sequences)
    if total == 0:
        raise CalibrationError("the calibration text has no tokens but special ones")
    if unknown == total:
        raise CalibrationError(
            "no word of the calibration text is in the model's vocabulary; give text that it knows"
        )
    warnings = []
    short = sum(length <= 1 for length in lengths)
    if 2 * short > len(lengths):
        warnings.append(
            f"{short} of {len(lengths)} calibration texts have at most one token; thresholds hold "
            "for texts of that length only"
        )
    if unknown > UNKNOWN_SHARE * total:
        warnings.append(
            f"{100 * unknown / total:.0f} % of the calibration text's tokens are unknown to the "
            "model; is it the model's language?"
        )
    return tuple(warnings)
