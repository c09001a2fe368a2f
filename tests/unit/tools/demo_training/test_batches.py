"""Sequences and batches for the demo's training."""

from __future__ import annotations

import random

import pytest
import sentencepiece

from exporter.demo import checkpoint_folder
from tools.demo_training.batches import Encoder, index_batches, packed_texts, pad, rated_sequences
from tools.demo_training.split import Example

TEXTS = [f"This is sentence {i}, and it has {'very ' * (i % 23)}many words." for i in range(300)]


@pytest.fixture
def encoder() -> Encoder:
    model = str(checkpoint_folder() / "spm.model")
    return Encoder(sentencepiece.SentencePieceProcessor(model_file=model), seed=1)


def test_packing_keeps_every_text_and_reaches_long_inputs(encoder: Encoder) -> None:
    sequences = packed_texts(encoder, TEXTS * 8)
    assert max(map(len, sequences)) > 300
    assert all(len(s) <= 512 and s[0] == 1 and s[-1] == 2 for s in sequences)
    decoded = " ".join(encoder._processor.decode(s[1:-1]) for s in sequences).lower()
    assert decoded.count("this is sentence") == len(TEXTS) * 8


def test_joined_examples_carry_the_mean_rating(encoder: Encoder) -> None:
    examples = [Example(text, 1, 2.0, "movie") for text in TEXTS]
    items = rated_sequences(encoder, examples, joined_share=0.5, gaps=0.1)
    assert len(items) == 450
    assert all(rating == pytest.approx(2.0) for _, rating in items)
    masked = sum(ids.count(encoder.mask_id) for ids, _ in items)
    assert masked / sum(len(ids) - 2 for ids, _ in items) == pytest.approx(0.1, abs=0.02)


def test_batches_cover_every_sequence_once_within_the_budget() -> None:
    sequences = [[7] * (i % 61 + 1) for i in range(501)]
    batches = list(index_batches(sequences, 128, random.Random(2)))
    assert sorted(i for batch in batches for i in batch) == list(range(501))
    for batch in batches:
        # The order is jittered by four tokens, so a batch may exceed its budget by that much.
        assert max(len(sequences[i]) for i in batch) * len(batch) <= 128 + 4 * len(batch)


def test_padding() -> None:
    ids, mask = pad([[1, 9, 2], [1, 2]])
    assert ids.tolist() == [[1, 9, 2], [1, 2, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 1, 0]]


def test_augmentation_is_seeded(encoder: Encoder) -> None:
    first = [encoder.augmented(text) for text in TEXTS]
    again = Encoder(encoder._processor, seed=1)
    assert [again.augmented(text) for text in TEXTS] == first
    assert first != [encoder.plain(text) for text in TEXTS]
