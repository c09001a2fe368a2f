"""The oracle against the definition, written with loops over single pairs in double precision."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from plugins.disentangled_attention.oracle import disentangled_attention
from plugins.disentangled_attention.slots import slot_table

HEADS, SIZE, SPAN, BUCKETS, MAX_POSITION = 2, 4, 6, 6, 9
SCALE = 0.37


def tensors(batch: int, length: int, seed: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(batch, length, 3 * HEADS * SIZE, generator=generator, dtype=torch.float64)
    pos_key = torch.randn(HEADS, 2 * SPAN, SIZE, generator=generator, dtype=torch.float64)
    pos_query = torch.randn(HEADS, 2 * SPAN, SIZE, generator=generator, dtype=torch.float64)
    mask = torch.rand(batch, length, generator=generator) > 0.3
    mask[:, 0] = True
    return qkv, pos_key, pos_query, mask


def by_definition(
    qkv: torch.Tensor,
    pos_key: torch.Tensor,
    pos_query: torch.Tensor,
    slots: torch.Tensor,
    mask: torch.Tensor,
    c2p: bool,
    p2c: bool,
) -> torch.Tensor:
    """Equation 4 of the paper, one pair of tokens at a time."""
    batch, length, _ = qkv.shape
    reach = len(slots) // 2
    context = torch.zeros(batch, length, HEADS * SIZE, dtype=qkv.dtype)
    for b, h, i in itertools.product(range(batch), range(HEADS), range(length)):
        part = slice(h * SIZE, (h + 1) * SIZE)
        query, key, value = (qkv[b][:, n * HEADS * SIZE :][:, part] for n in range(3))
        scores = []
        for j in range(length):
            slot = int(slots[max(-reach, min(reach, i - j)) + reach])
            score = float(query[i] @ key[j])
            score += float(query[i] @ pos_key[h, slot]) if c2p else 0.0
            score += float(key[j] @ pos_query[h, slot]) if p2c else 0.0
            scores.append(SCALE * score if mask[b, j] else -math.inf)
        weights = torch.tensor(scores, dtype=qkv.dtype).softmax(0)
        context[b, i, part] = weights @ value
    return context


@pytest.mark.parametrize(("c2p", "p2c"), list(itertools.product([True, False], repeat=2)))
@pytest.mark.parametrize("length", [1, 2, 7, 23])
def test_the_oracle_is_the_definition(c2p: bool, p2c: bool, length: int) -> None:
    qkv, pos_key, pos_query, mask = tensors(2, length, length)
    slots = slot_table(SPAN, BUCKETS, MAX_POSITION)
    wanted = by_definition(qkv, pos_key, pos_query, slots, mask, c2p, p2c)
    ours = disentangled_attention(
        qkv, pos_key, pos_query, slots, mask, num_heads=HEADS, scale=SCALE, c2p=c2p, p2c=p2c
    )
    torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-12)
    for queries in (1, 3, 99):
        some = disentangled_attention(
            qkv, pos_key, pos_query, slots, mask,
            num_heads=HEADS, scale=SCALE, c2p=c2p, p2c=p2c, queries=queries,
        )  # fmt: skip
        torch.testing.assert_close(some, wanted[:, :queries], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_sequence_without_keys_is_finite_in_every_type(dtype: torch.dtype) -> None:
    qkv, pos_key, pos_query, mask = tensors(2, 5, 0)
    mask[1] = False
    narrow = [tensor.to(dtype) for tensor in (qkv, pos_key, pos_query)]
    slots = slot_table(SPAN, BUCKETS, MAX_POSITION)
    context = disentangled_attention(
        *narrow, slots, mask.int(), num_heads=HEADS, scale=SCALE, c2p=True, p2c=True
    )
    assert context.dtype == dtype
    assert torch.isfinite(context).all()
