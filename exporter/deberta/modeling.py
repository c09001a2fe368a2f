"""DeBERTa-v2/v3 for inference, as the paper defines it.

He et al., "DeBERTa: Decoding-enhanced BERT with Disentangled Attention", ICLR 2021, and
"DeBERTaV3", ICLR 2023; the numbers must match `modeling_deberta_v2.py` of transformers. Parameters
carry the names that checkpoints use, so a state dict maps one to one.

`B` batch, `S` sequence, `E` hidden size, `H` heads, `D` head size, `R` position slots.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from exporter.deberta.activations import fixed_activation, make_activation
from exporter.deberta.configuration import DebertaConfig
from plugins.disentangled_attention.oracle import disentangled_attention
from plugins.disentangled_attention.slots import slot_table


class Embeddings(nn.Module):
    """Word embeddings, plus absolute positions and token types where the model has them."""

    def __init__(self, config: DebertaConfig) -> None:
        super().__init__()
        width, out, types = config.embedding_width, config.hidden_size, config.type_vocab_size
        positions = config.max_position_embeddings if config.position_biased_input else 0
        self.word_embeddings = nn.Embedding(config.vocab_size, width)
        self.position_embeddings = nn.Embedding(positions, width) if positions else None
        self.token_type_embeddings = nn.Embedding(types, width) if types else None
        self.embed_proj = nn.Linear(width, out, bias=False) if width != out else None
        self.LayerNorm = nn.LayerNorm(out, config.layer_norm_eps)

    def forward(self, input_ids: Tensor, mask: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """int64 `(B, S)` each -> `(B, S, E)`, zero where `mask` is."""
        hidden: Tensor = self.word_embeddings(input_ids)
        if self.position_embeddings is not None:
            hidden = hidden + self.position_embeddings.weight[: input_ids.shape[1]]
        if self.token_type_embeddings is not None:
            if token_type_ids is None:
                token_type_ids = torch.zeros_like(input_ids)
            hidden = hidden + self.token_type_embeddings(token_type_ids)
        if self.embed_proj is not None:
            hidden = self.embed_proj(hidden)
        hidden = self.LayerNorm(hidden)
        return hidden * mask.unsqueeze(-1).to(hidden.dtype)


class SelfAttention(nn.Module):
    """Disentangled self-attention: content-to-content, content-to-position, position-to-content."""

    def __init__(self, config: DebertaConfig) -> None:
        super().__init__()
        self.config = config
        self.queries: int | None = None
        self.attend: Callable[..., Tensor] = disentangled_attention
        width = config.num_attention_heads * config.head_size
        self.query_proj = nn.Linear(config.hidden_size, width)
        self.key_proj = nn.Linear(config.hidden_size, width)
        self.value_proj = nn.Linear(config.hidden_size, width)
        # Shared: the relative embeddings pass through the projections of the content, biases too.
        if not config.share_att_key:
            self.pos_key_proj = nn.Linear(config.hidden_size, width) if config.c2p else None
            self.pos_query_proj = nn.Linear(config.hidden_size, width) if config.p2c else None

    def project_positions(self, relative: Tensor) -> tuple[Tensor, Tensor]:
        """Relative embeddings `(R, E)` -> `pos_key` and `pos_query`, `(H, R, D)` each.

        A term that the model lacks gives the placeholder `(H, 1, D)` of the operator's contract.
        """
        heads, size = self.config.num_attention_heads, self.config.head_size
        shared = self.config.share_att_key
        key_proj = self.key_proj if shared else self.pos_key_proj
        query_proj = self.query_proj if shared else self.pos_query_proj

        def by_head(projection: nn.Linear | None, present: bool) -> Tensor:
            if projection is None or not present:
                return relative.new_zeros(heads, 1, size)
            projected: Tensor = projection(relative)
            return projected.view(-1, heads, size).transpose(0, 1)

        return by_head(key_proj, self.config.c2p), by_head(query_proj, self.config.p2c)

    def forward(self, hidden: Tensor, relative: Tensor, slots: Tensor, mask: Tensor) -> Tensor:
        """`hidden` `(B, S, E)`, `relative` `(R, E)`, `slots`, `mask` `(B, S)` -> `(B, S, H*D)`, or
        `(B, 1, H*D)` with `queries` 1."""
        projections = (self.query_proj, self.key_proj, self.value_proj)
        qkv = torch.cat([projection(hidden) for projection in projections], dim=-1)
        pos_key, pos_query = self.project_positions(relative)
        config = self.config
        return self.attend(
            qkv, pos_key, pos_query, slots, mask,
            num_heads=config.num_attention_heads, scale=config.attention_scale,
            c2p=config.c2p, p2c=config.p2c, queries=self.queries,
        )  # fmt: skip


class ResidualOutput(nn.Module):
    """A linear layer, the residual added, LayerNorm: the end of both halves of a layer."""

    def __init__(self, width: int, config: DebertaConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, inner: Tensor, residual: Tensor) -> Tensor:
        """`(B, S, width)` and `(B, S, E)` -> `(B, S, E)`."""
        normed: Tensor = self.LayerNorm(self.dense(inner) + residual)
        return normed


class Attention(nn.Module):
    """Self-attention and its output projection."""

    def __init__(self, config: DebertaConfig) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = ResidualOutput(config.num_attention_heads * config.head_size, config)

    def forward(self, hidden: Tensor, relative: Tensor, slots: Tensor, mask: Tensor) -> Tensor:
        """`(B, S, E)` -> `(B, S, E)`, or `(B, 1, E)` with `queries` 1."""
        context = self.self(hidden, relative, slots, mask)
        attended: Tensor = self.output(context, leading(hidden, self.self.queries))
        return attended


class Intermediate(nn.Module):
    """The first feed-forward matrix and its activation."""

    def __init__(self, config: DebertaConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.intermediate_act_fn = make_activation(config.hidden_act)

    def forward(self, hidden: Tensor) -> Tensor:
        """`(B, S, E)` -> `(B, S, intermediate_size)`."""
        activated: Tensor = self.intermediate_act_fn(self.dense(hidden))
        return activated


class Layer(nn.Module):
    """One transformer layer."""

    def __init__(self, config: DebertaConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.intermediate = Intermediate(config)
        self.output = ResidualOutput(config.intermediate_size, config)

    def forward(self, hidden: Tensor, relative: Tensor, slots: Tensor, mask: Tensor) -> Tensor:
        """`(B, S, E)` -> `(B, S, E)`."""
        attended = self.attention(hidden, relative, slots, mask)
        out: Tensor = self.output(self.intermediate(attended), attended)
        return out


class ConvLayer(nn.Module):
    """Convolution over the embeddings, added to the first layer's output (v2-xlarge, xxlarge)."""

    def __init__(self, config: DebertaConfig) -> None:
        super().__init__()
        self.queries: int | None = None
        kernel, width = config.conv_kernel_size, config.hidden_size
        self.conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=config.conv_groups)
        self.LayerNorm = nn.LayerNorm(width, config.layer_norm_eps)
        self.activation = fixed_activation(config.conv_act)

    def forward(self, embedded: Tensor, hidden: Tensor, mask: Tensor) -> Tensor:
        """Embedding output and first layer's output, `(B, S, E)` each -> `(B, S, E)`; with
        `queries` 1, the latter and the result are `(B, 1, E)`."""
        keep = leading(mask, self.queries).unsqueeze(-1).to(hidden.dtype)
        convolved = self.conv(embedded.transpose(1, 2)).transpose(1, 2)
        convolved = leading(convolved, self.queries) * keep
        normed: Tensor = self.LayerNorm(hidden + self.activation(convolved))
        return normed * keep


def leading(rows: Tensor, queries: int | None) -> Tensor:
    """`(B, S, ...)`, or `(B, 1, ...)` with `queries` 1: traced as one Gather."""
    return rows if queries is None else rows.select(1, 0).unsqueeze(1)


class Encoder(nn.Module):
    """The layers, the relative embeddings they share, and the slots that index them."""

    def __init__(self, config: DebertaConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList([Layer(config) for _ in range(config.num_hidden_layers)])
        span, width = config.position_span, config.hidden_size
        self.rel_embeddings = nn.Embedding(2 * span, width) if config.relative_attention else None
        self.LayerNorm = nn.LayerNorm(width, config.layer_norm_eps) if config.norm_rel_ebd else None
        slots = torch.zeros(3, dtype=torch.int32, device="cpu")
        if config.relative_attention:
            slots = slot_table(span, config.position_buckets, config.relative_positions)
        self.register_buffer("slots", slots, persistent=False)
        self.slots: Tensor
        self.conv = ConvLayer(config) if config.conv_kernel_size > 0 else None

    def keep_first(self) -> None:
        """Compute the first token alone of the last layer: it needs the keys and values of all."""
        attention = self.layer[-1].get_submodule("attention.self")
        assert isinstance(attention, SelfAttention)
        attention.queries = 1
        if self.conv is not None and len(self.layer) == 1:
            self.conv.queries = 1

    def relative_embeddings(self, like: Tensor) -> Tensor:
        """`(R, E)`, normalized where the model does; `(1, E)` zeros where it has none."""
        if self.rel_embeddings is None:
            return like.new_zeros(1, like.shape[-1])
        weight: Tensor = self.rel_embeddings.weight
        return weight if self.LayerNorm is None else self.LayerNorm(weight)

    def forward(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """Embedding output `(B, S, E)`, mask `(B, S)` -> `(B, S, E)`, or `(B, 1, E)`."""
        relative = self.relative_embeddings(embedded)
        keys = mask.to(torch.int32)
        hidden = embedded
        for index, layer in enumerate(self.layer):
            hidden = layer(hidden, relative, self.slots, keys)
            if index == 0 and self.conv is not None:
                hidden = self.conv(embedded, hidden, mask)
        return hidden


class DebertaModel(nn.Module):
    """Embeddings and encoder, without a head.

    Like the models of `heads` it is called with int64 `input_ids`, `attention_mask` and,
    optionally, `token_type_ids`, and returns its outputs in the order of `task.output_names`.
    """

    def __init__(self, config: DebertaConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """`(B, S)` each -> `last_hidden_state` `(B, S, E)`, or `(B, 1, E)`."""
        embedded = self.embeddings(input_ids, attention_mask, token_type_ids)
        return (self.encoder(embedded, attention_mask),)
