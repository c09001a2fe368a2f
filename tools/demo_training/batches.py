"""Token sequences and padded batches for training, with the augmentation that little data needs."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import sentencepiece
import torch
from torch import Tensor

from tools.demo_training.split import Example
from tools.demo_training.vocabulary import CLS, PAD, SEP

# Length limits of packed pre-training texts, in tokens: mostly short, as the sentences are, and a
# few up to the maximum, so that the embeddings of long distances are trained too.
PACKED_LENGTHS = (32,) * 16 + (64,) * 16 + (96,) * 8 + (192,) * 2 + (320, 510)
MAX_CONTENT = 510  # 512 less [CLS] and [SEP]


class Encoder:
    """Text to piece ids (no special tokens), by `spm.model`, with seeded augmentation."""

    def __init__(self, processor: sentencepiece.SentencePieceProcessor, seed: int) -> None:
        self.random = random.Random(seed)
        self.mask_id: int = processor.vocab_size()
        self._processor = processor
        sentencepiece.set_random_generator_seed(seed)

    def plain(self, text: str) -> list[int]:
        """The ids that inference uses, at most 510."""
        ids: list[int] = self._processor.encode(text)
        return ids[:MAX_CONTENT]

    def augmented(self, text: str) -> list[int]:
        """Ids of a random segmentation (Kudo, ACL 2018), lower-cased half of the time.

        Both moves make rare words share pieces with frequent ones.
        """
        if self.random.random() < 0.5:
            text = text.lower()
        if self.random.random() < 0.3:
            return self.plain(text)
        ids: list[int] = self._processor.encode(
            text, enable_sampling=True, alpha=0.3, nbest_size=-1
        )
        return ids[:MAX_CONTENT]

    def with_gaps(self, ids: Sequence[int], share: float) -> list[int]:
        """The ids with about `share` of them replaced by [MASK]."""
        return [self.mask_id if self.random.random() < share else i for i in ids]


def packed_texts(encoder: Encoder, texts: Sequence[str]) -> list[list[int]]:
    """All texts in random order, joined into sequences of various lengths up to 512 tokens."""
    shuffled = list(texts)
    encoder.random.shuffle(shuffled)
    sequences: list[list[int]] = []
    current: list[int] = []
    limit = encoder.random.choice(PACKED_LENGTHS)
    for text in shuffled:
        ids = encoder.augmented(text)
        if current and len(current) + len(ids) > limit:
            sequences.append([CLS, *current, SEP])
            current, limit = [], encoder.random.choice(PACKED_LENGTHS)
        current += ids
    sequences.append([CLS, *current[:MAX_CONTENT], SEP])
    return sequences


def rated_sequences(
    encoder: Encoder, examples: Sequence[Example], joined_share: float, gaps: float
) -> list[tuple[list[int], float]]:
    """One epoch of (token ids, rating): each example once, and joins of several examples.

    There are `joined_share` joins per example, mostly of two or three and up to sixteen, rated
    with the mean of their ratings: they show the classifier contrast and long inputs.
    """
    choice = encoder.random
    rated = [(encoder.augmented(example.text), example.rating) for example in examples]
    for _ in range(int(len(examples) * joined_share)):
        count = choice.randint(2, 3) if choice.random() < 0.95 else choice.randint(4, 16)
        members = choice.sample(list(examples), count)
        ids = [i for member in members for i in encoder.augmented(member.text)]
        rated.append((ids[:MAX_CONTENT], sum(member.rating for member in members) / count))
    return [([CLS, *encoder.with_gaps(ids, gaps), SEP], rating) for ids, rating in rated]


def index_batches(
    sequences: Sequence[Sequence[int]], tokens: int, shuffle: random.Random
) -> Iterator[list[int]]:
    """Indices of sequences of like length, `tokens` padded tokens a batch, in random order."""
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]) + 4 * shuffle.random())
    batches: list[list[int]] = []
    current: list[int] = []
    for index in order:
        if current and (len(current) + 1) * len(sequences[index]) > tokens:
            batches.append(current)
            current = []
        current.append(index)
    batches.append(current)
    shuffle.shuffle(batches)
    yield from batches


def pad(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """`input_ids` and `attention_mask`, both int64 (B, S), padded on the right."""
    width = max(map(len, sequences))
    ids = torch.tensor([[*row, *[PAD] * (width - len(row))] for row in sequences])
    return ids, (ids != PAD).long()
