"""Disentangled attention for short training batches: the same scores, several times faster.

`transformers` repeats the projections of all 512 relative positions for each sequence of a batch
and scores every one of them. A batch of 25-token sentences needs 49. Here the projections are not
repeated and only the slots that occur are scored. Parameters and results are unchanged, so the
trained weights load into the stock model.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from transformers import DebertaV2ForMaskedLM, DebertaV2ForSequenceClassification
from transformers.models.deberta_v2.modeling_deberta_v2 import (
    DebertaV2Attention,
    DisentangledSelfAttention,
)


class TrainingAttention(DisentangledSelfAttention):
    """`DisentangledSelfAttention` for shared keys and both position terms (DeBERTa-v3)."""

    def disentangled_attention_bias(
        self,
        query_layer: Tensor,
        key_layer: Tensor,
        relative_pos: Tensor,
        rel_embeddings: Tensor,
        scale_factor: int,
    ) -> Tensor:
        """Scaled sum of content-to-position and position-to-content scores.

        Takes query and key (B*H, S, D), relative_pos (1, S, S), rel_embeddings (2*buckets, hidden);
        returns (B*H, S, S). Formula: He et al., "DeBERTa", ICLR 2021, equation 4.
        """
        heads = self.num_attention_heads
        rows, length, head_size = query_layer.shape
        last_slot = 2 * self.pos_ebd_size - 1
        distance = relative_pos.reshape(length, length).long()
        c2p_slots = (distance + self.pos_ebd_size).clamp(0, last_slot)
        p2c_slots = (self.pos_ebd_size - distance).clamp(0, last_slot)
        low = int(torch.minimum(c2p_slots.min(), p2c_slots.min()))
        high = int(torch.maximum(c2p_slots.max(), p2c_slots.max())) + 1
        used = rel_embeddings[low:high].unsqueeze(0)

        def term(content: Tensor, position: Tensor, slots: Tensor) -> Tensor:
            """Scores of content (B*H, S, D) with position (H, R, D), gathered to (H, B, S, S)."""
            per_head = content.view(-1, heads, length, head_size).transpose(0, 1)
            scores = per_head.reshape(heads, -1, head_size) @ position.transpose(1, 2)
            scores = scores.view(heads, -1, length, high - low)
            return scores.gather(-1, (slots - low).expand(*scores.shape[:3], length))

        pos_key = self.transpose_for_scores(self.key_proj(used), heads)
        pos_query = self.transpose_for_scores(self.query_proj(used), heads)
        bias = term(query_layer, pos_key, c2p_slots)
        bias = bias + term(key_layer, pos_query, p2c_slots).transpose(-1, -2)
        bias = bias / math.sqrt(head_size * scale_factor)
        return bias.transpose(0, 1).reshape(rows, length, length)


def use_training_attention(
    model: DebertaV2ForMaskedLM | DebertaV2ForSequenceClassification,
) -> None:
    """Put TrainingAttention, with the same parameters, into every layer of a v3-like model.

    Raises ValueError when the model has no shared keys or lacks one of the position terms.
    """
    config = model.config
    if not config.share_att_key or set(config.pos_att_type or ()) != {"c2p", "p2c"}:
        raise ValueError("TrainingAttention needs share_att_key and both position terms")
    owners = [module for module in model.modules() if isinstance(module, DebertaV2Attention)]
    for owner in owners:
        attention = TrainingAttention(config)  # type: ignore[no-untyped-call]
        attention.load_state_dict(owner.self.state_dict())
        owner.self = attention
