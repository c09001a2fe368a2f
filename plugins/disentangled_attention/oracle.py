"""The operator written down plainly: the reference for every other implementation of it.

He et al., "DeBERTa: Decoding-enhanced BERT with Disentangled Attention", ICLR 2021, equation 4; the
numbers must match `DisentangledSelfAttention` in `modeling_deberta_v2.py` of transformers.
"""

from __future__ import annotations

import torch
from torch import Tensor


def disentangled_attention(
    qkv: Tensor, pos_key: Tensor, pos_query: Tensor, slots: Tensor, mask: Tensor,
    *, num_heads: int, scale: float, c2p: bool, p2c: bool,
) -> Tensor:  # fmt: skip
    """Attention of one layer, in the dtype of `qkv`, with the S x S scores in memory.

    Args:
        qkv: `(B, S, 3*H*D)`.
        pos_key, pos_query: `(H, R, D)`; read only with `c2p`, `p2c`, the position terms there are.
        slots: int32 `(2*P + 1,)`.
        mask: int or bool `(B, S)`, non-zero for a key that may be attended.
        scale: factor of all three score terms.

    Returns `(B, S, H*D)`. A sequence with no key to attend to gives the mean of its values.
    """
    batch, length, _ = qkv.shape
    query, key, value = qkv.view(batch, length, 3, num_heads, -1).permute(2, 0, 3, 1, 4)
    # Scaled before the sum, so that a narrow storage type does not overflow in it.
    query_BHSD, key_BHSD = query * scale, key
    scores_BHSS = query_BHSD @ key_BHSD.transpose(-1, -2)

    if c2p or p2c:
        saturation = (slots.numel() - 1) // 2
        position = torch.arange(length, device=slots.device)
        distance = position[:, None] - position[None, :]
        index_SS = slots[distance.clamp(-saturation, saturation) + saturation].to(torch.int64)
        index_BHSS = index_SS.expand(batch, num_heads, length, length)
        if c2p:
            table_BHSR = query_BHSD @ pos_key.transpose(-1, -2)
            scores_BHSS = scores_BHSS + table_BHSR.gather(-1, index_BHSS)
        if p2c:
            table_BHSR = (key_BHSD * scale) @ pos_query.transpose(-1, -2)
            by_key_BHSS = table_BHSR.gather(-1, index_BHSS.transpose(-1, -2))
            scores_BHSS = scores_BHSS + by_key_BHSS.transpose(-1, -2)

    forbidden = (mask == 0)[:, None, None, :]
    scores_BHSS = scores_BHSS.masked_fill(forbidden, torch.finfo(scores_BHSS.dtype).min)
    context_BHSD: Tensor = torch.softmax(scores_BHSS, dim=-1) @ value
    return context_BHSD.transpose(1, 2).reshape(batch, length, -1)
