"""The operator written down plainly: the reference for every other implementation of it.

He et al., "DeBERTa: Decoding-enhanced BERT with Disentangled Attention", ICLR 2021, equation 4; the
numbers must match `DisentangledSelfAttention` in `modeling_deberta_v2.py` of transformers.
"""

from __future__ import annotations

import torch
from torch import Tensor


def disentangled_attention(
    qkv: Tensor, pos_key: Tensor, pos_query: Tensor, slots: Tensor, mask: Tensor,
    *, num_heads: int, scale: float, c2p: bool, p2c: bool, queries: int | None = None,
) -> Tensor:  # fmt: skip
    """Attention of one layer, in the dtype of `qkv`, with the scores of all pairs in memory.

    Args:
        qkv: `(B, S, 3*H*D)`.
        pos_key, pos_query: `(H, R, D)`; read only with `c2p`, `p2c`, the position terms there are.
        slots: int32 `(2*P + 1,)`.
        mask: int or bool `(B, S)`, non-zero for a key that may be attended.
        scale: factor of all three score terms.
        queries: how many leading rows to compute, `Q`; all `S` for None or more than there are.

    Returns `(B, Q, H*D)`. A sequence with no key to attend to gives the mean of its values.
    """
    batch, length, _ = qkv.shape
    query, key, value = qkv.view(batch, length, 3, num_heads, -1).permute(2, 0, 3, 1, 4)
    # Scaled before the sum, so that a narrow storage type does not overflow in it.
    query_BHQD, key_BHSD = query[:, :, :queries] * scale, key
    scores_BHQS = query_BHQD @ key_BHSD.transpose(-1, -2)

    if c2p or p2c:
        saturation = (slots.numel() - 1) // 2
        position = torch.arange(length, device=slots.device)
        distance = position[:queries, None] - position[None, :]
        index_QS = slots[distance.clamp(-saturation, saturation) + saturation].to(torch.int64)
        index_BHQS = index_QS.expand(batch, num_heads, -1, -1)
        if c2p:
            table_BHQR = query_BHQD @ pos_key.transpose(-1, -2)
            scores_BHQS = scores_BHQS + table_BHQR.gather(-1, index_BHQS)
        if p2c:
            table_BHSR = (key_BHSD * scale) @ pos_query.transpose(-1, -2)
            by_key_BHSQ = table_BHSR.gather(-1, index_BHQS.transpose(-1, -2))
            scores_BHQS = scores_BHQS + by_key_BHSQ.transpose(-1, -2)

    forbidden = (mask == 0)[:, None, None, :]
    scores_BHQS = scores_BHQS.masked_fill(forbidden, torch.finfo(scores_BHQS.dtype).min)
    context_BHQD: Tensor = torch.softmax(scores_BHQS, dim=-1) @ value
    return context_BHQD.transpose(1, 2).reshape(batch, context_BHQD.shape[2], -1)
