"""The identity of token ids, and warnings about them."""

from __future__ import annotations

import hashlib
import random
import struct

import pytest

from calibration.calibration_error import CalibrationError
from calibration.tokens import TokenSequence, data_hash, token_warnings


def sequences(count: int, seed: int = 0, longest: int = 50) -> list[TokenSequence]:
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        ids = tuple(rng.randrange(5, 100) for _ in range(rng.randint(1, longest)))
        types = tuple(rng.randrange(2) for _ in ids) if rng.random() < 0.5 else ()
        made.append(TokenSequence(ids, types))
    return made


def test_the_hash_is_that_of_the_set_of_texts() -> None:
    source = sequences(20)
    wanted = data_hash(source)
    assert len(wanted) == 64
    assert data_hash(random.Random(1).sample(source, 20)) == wanted
    others = [
        source[:-1],
        [*source, source[0]],
        [*source[:-1], TokenSequence((*source[-1].ids, 1), ())],
        [TokenSequence((1, 2)), TokenSequence((3,))],
        [TokenSequence((1,)), TokenSequence((2, 3))],
        [TokenSequence((1, 2, 3))],
        [TokenSequence((1, 2), (3, 1))],
        [TokenSequence((1, 2, 3, 1))],
    ]
    assert len({wanted, *map(data_hash, others)}) == 1 + len(others)


def test_the_hash_is_the_same_on_every_machine() -> None:
    rows = (struct.pack("<4q", 3, 1, 2, 3), struct.pack("<3q", 1, 4, 1), struct.pack("<2q", 1, 5))
    digests = sorted(hashlib.sha256(row).digest() for row in rows)
    source = [TokenSequence((1, 2, 3)), TokenSequence((4,), (1,)), TokenSequence((5,), (0,))]
    assert data_hash(source) == hashlib.sha256(b"".join(digests)).hexdigest()


CLS, SEP, UNK = 1, 2, 3


def text(*ids: int) -> TokenSequence:
    return TokenSequence((CLS, *ids, SEP))


def warnings(*items: TokenSequence) -> tuple[str, ...]:
    # The unknown token is one of the special tokens in the tokenizers' own lists.
    return token_warnings(items, unknown_id=UNK, special_ids=(0, CLS, SEP, UNK))


def test_fine_text_has_no_warnings() -> None:
    assert warnings(text(*range(10, 20)), text(UNK, *range(10, 20)), text(5)) == ()


def test_texts_of_one_token_and_another_language_are_pointed_out() -> None:
    (short,) = warnings(text(5), text(6), text(7, 8))
    assert "2 of 3" in short
    (foreign,) = warnings(text(UNK, UNK, 9, UNK), text(UNK, 9, 9, 9))
    assert "50 %" in foreign


def test_text_without_any_known_token_is_refused() -> None:
    with pytest.raises(CalibrationError, match="vocabulary"):
        warnings(text(UNK, UNK), text(UNK, UNK, UNK))
    with pytest.raises(CalibrationError, match="special"):
        warnings(text(), text())
