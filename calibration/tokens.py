"""Token ids of the calibration text: their identity, and what is suspect about them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from calibration.calibration_error import CalibrationError

UNKNOWN_SHARE = 0.1
"""More unknown tokens than this and the text is hardly the model's language."""


@dataclass(frozen=True)
class TokenSequence:
    """One tokenized text or pair: ids with the special tokens, and their types unless all are 0."""

    ids: tuple[int, ...]
    types: tuple[int, ...] = ()


def data_hash(sequences: Iterable[TokenSequence]) -> str:
    """SHA-256, in hexadecimal, of the sequences in whatever order."""
    digests = []
    for item in sequences:  # types that are all 0 may be left out
        numbers = [len(item.ids), *item.ids, *(item.types if any(item.types) else ())]
        digests.append(hashlib.sha256(np.array(numbers, "<i8").tobytes()).digest())
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def token_warnings(
    sequences: Sequence[TokenSequence], *, unknown_id: int, special_ids: Collection[int]
) -> tuple[str, ...]:
    """What the tokens say against the text, one sentence each.

    `unknown_id` stands for what the vocabulary lacks, `special_ids` are no text, such as padding.

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
        found = f"{short} of {len(lengths)} calibration texts have at most one token"
        warnings.append(f"{found}; thresholds hold for texts of that length only")
    if unknown > UNKNOWN_SHARE * total:
        found = f"{100 * unknown / total:.0f} % of the calibration text's tokens"
        warnings.append(f"{found} are unknown to the model; is it the model's language?")
    return tuple(warnings)
