"""Batches by length, the identity of token ids, and warnings about them."""

from __future__ import annotations

import hashlib
import random
import struct

import numpy as np
import pytest

from calibration.batches import (
    Batch,
    TokenSequence,
    data_hash,
    in_original_order,
    make_batches,
    token_warnings,
)
from calibration.errors import CalibrationError


def sequences(count: int, seed: int = 0, longest: int = 50) -> list[TokenSequence]:
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        ids = tuple(rng.randrange(5, 100) for _ in range(rng.randint(1, longest)))
        types = tuple(rng.randrange(2) for _ in ids) if rng.random() < 0.5 else ()
        made.append(TokenSequence(ids, types))
    return made


def unpad(batch: Batch, line: int) -> TokenSequence:
    valid = batch.attention_mask[line] == 1
    return TokenSequence(
        tuple(batch.input_ids[line][valid].tolist()),
        tuple(batch.token_type_ids[line][valid].tolist()),
    )


@pytest.mark.parametrize("budget", [1, 50, 64, 1000, 10**6])
def test_every_sequence_is_in_one_batch_padded_on_the_right(budget: int) -> None:
    source = sequences(77)
    batches = make_batches(source, token_budget=budget, pad_id=3)
    assert sorted(row for batch in batches for row in batch.rows) == list(range(77))
    for batch in batches:
        shape = batch.input_ids.shape
        assert batch.input_ids.dtype == batch.attention_mask.dtype == np.int64
        assert shape[0] == len(batch.rows)
        assert shape[0] == 1 or shape[0] * shape[1] <= budget
        lengths = batch.attention_mask.sum(axis=1)
        assert lengths.max() == shape[1]
        assert (batch.attention_mask == (np.arange(shape[1]) < lengths[:, None])).all()
        assert (batch.input_ids[batch.attention_mask == 0] == 3).all()
        assert (batch.token_type_ids[batch.attention_mask == 0] == 0).all()
        for line, row in enumerate(batch.rows):
            wanted = source[row]
            types = wanted.types or (0,) * len(wanted.ids)
            assert unpad(batch, line) == TokenSequence(wanted.ids, types)


def test_the_longest_come_first_and_equal_lengths_keep_their_order() -> None:
    source = [TokenSequence((index,) * length) for index, length in enumerate((2, 5, 2, 9, 5))]
    batches = make_batches(source, token_budget=10)
    assert [batch.rows for batch in batches] == [(3,), (1, 4), (0, 2)]


def test_results_return_in_the_original_order() -> None:
    source = sequences(31, seed=4)
    batches = make_batches(source, token_budget=120)
    results = [[int(value) for value in batch.input_ids[:, 0]] for batch in batches]
    assert in_original_order(batches, results) == [item.ids[0] for item in source]
    with pytest.raises(ValueError, match="shorter"):
        in_original_order(batches, [results[0][:-1], *results[1:]])


def test_feeds_have_the_names_and_rank_that_the_model_takes() -> None:
    (batch,) = make_batches([TokenSequence((5, 6), (0, 1)), TokenSequence((7,))])
    plain = batch.feeds(("input_ids", "attention_mask"))
    assert set(plain) == {"input_ids", "attention_mask"}
    np.testing.assert_array_equal(plain["input_ids"], [[5, 6], [7, 0]])
    choices = batch.feeds(("input_ids", "attention_mask", "token_type_ids"), rank=3)
    np.testing.assert_array_equal(choices["token_type_ids"], [[[0, 1]], [[0, 0]]])


def test_what_cannot_be_batched_is_refused() -> None:
    with pytest.raises(CalibrationError, match="no calibration text"):
        make_batches([])
    with pytest.raises(CalibrationError, match="text 2 has no token"):
        make_batches([TokenSequence((1,)), TokenSequence(())])
    with pytest.raises(CalibrationError, match="token budget 0"):
        make_batches([TokenSequence((1,))], token_budget=0)
    with pytest.raises(ValueError, match="1 types for 2 ids"):
        make_batches([TokenSequence((1, 2), (0,))])


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
