"""The attention layer and the whole model, as others and as ours compute them, with equal weights.

A layer takes hidden states `(B, S, E)` and a mask `(B, S)` and gives `(B, S, E)`; its projections
are part of it, since `disentangled-flash` offers no smaller piece. Peers are optional: what is not
installed is left out and named.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from exporter.deberta.configuration import DebertaConfig
from exporter.deberta.heads import make_model
from exporter.deberta.modeling import DebertaModel, SelfAttention
from exporter.model.task import Task
from plugins.disentangled_attention.torch_operator import disentangled_attention

OURS = "ours fused"
Call = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

MODELS: dict[str, dict[str, int]] = {
    "v3-base": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    },
    "v3-large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
}


def model_fields(sizes: dict[str, int], vocabulary: int = 128100) -> dict[str, Any]:
    """config.json of a DeBERTa-v3 of these sizes."""
    return {
        "model_type": "deberta-v2",
        "vocab_size": vocabulary,
        "relative_attention": True,
        "position_buckets": 256,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "type_vocab_size": 0,
        "max_position_embeddings": 512,
        "max_relative_positions": -1,
        "layer_norm_eps": 1e-7,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        **sizes,
    }


def missing_peers() -> dict[str, str]:
    """Contenders that are not installed, and how to get them."""
    needs = {"flashdeberta": "flashdeberta", "disentangled-flash": "disentangled_flash"}
    return {
        name: f"not installed: pip install {name}"
        for name, module in needs.items()
        if find_spec(module) is None
    }


def random_layer(fields: dict[str, Any], seed: int = 0) -> tuple[SelfAttention, torch.Tensor]:
    """Our layer with random weights, fp32, and relative embeddings `(R, E)`.

    Scores have a standard deviation of about one, as trained models have: a uniform softmax would
    hide a wrong term.
    """
    config = DebertaConfig.from_dict(fields)
    generator = torch.Generator().manual_seed(seed)
    layer = SelfAttention(config).eval().requires_grad_(False)
    for parameter in layer.parameters():
        scale = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.1
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    relative = torch.randn(2 * config.position_span, config.hidden_size, generator=generator)
    return layer, relative


def layer_contenders(
    layer: SelfAttention, relative: torch.Tensor, slots: torch.Tensor, fields: dict[str, Any]
) -> dict[str, Callable[[], Call]]:
    """Makers of contenders by name, on the device and in the type of `layer`.

    A maker raises whatever its package does where it cannot be made.
    """
    makers: dict[str, Callable[[], Call]] = {
        OURS: lambda: _ours(layer, relative, slots),
        "HF eager": lambda: _hugging_face(layer, relative, fields),
        "SDPA, bias in memory": lambda: _with_bias(layer, relative, slots),
    }
    missing = missing_peers()
    if "flashdeberta" not in missing:
        makers["flashdeberta"] = lambda: _flashdeberta(layer, relative, fields)
    if "disentangled-flash" not in missing:
        makers["disentangled-flash"] = lambda: _disentangled_flash(layer, relative, fields)
    return makers


def model_contenders(
    fields: dict[str, Any], state: dict[str, torch.Tensor], device: str, dtype: torch.dtype
) -> dict[str, Callable[[], Call]]:
    """Makers of whole models by name, each called with ids and mask, giving `(B, S, E)`."""
    makers: dict[str, Callable[[], Call]] = {
        OURS: lambda: _our_model(fields, state, device, dtype),
        f"{OURS}, compiled": lambda: torch.compile(
            _our_model(fields, state, device, dtype), fullgraph=True
        ),
        "HF eager": lambda: _hf_model("eager", fields, state, device, dtype),
        "HF compiled": lambda: torch.compile(_hf_model("eager", fields, state, device, dtype)),
    }
    for name in ("flashdeberta", "disentangled-flash"):
        if name not in missing_peers():
            makers[name] = lambda name=name: _hf_model(name, fields, state, device, dtype)
    return makers


def random_state(fields: dict[str, Any], seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights of the model without a head, fp32 on the CPU, under the names of checkpoints."""
    torch.manual_seed(seed)
    model = make_model(DebertaConfig.from_dict(fields), Task.BASE).eval()
    state = model.state_dict()
    for name, value in state.items():
        if name.endswith("weight") and value.dim() > 1 and "embeddings" not in name:
            value.normal_(0.0, value.shape[-1] ** -0.5)
    return state


def bias_of(
    layer: SelfAttention, relative: torch.Tensor, slots: torch.Tensor, qkv: torch.Tensor
) -> torch.Tensor:
    """The position terms `(B, H, S, S)`, scaled, in the type of `qkv`, which is `(B, S, 3HD)`."""
    batch, length, _ = qkv.shape
    config = layer.config
    pos_key, pos_query = layer.project_positions(relative)
    split = qkv.view(batch, length, 3, config.num_attention_heads, -1).permute(2, 0, 3, 1, 4)
    query, key = split[0] * config.attention_scale, split[1] * config.attention_scale
    reach = (slots.numel() - 1) // 2
    place = torch.arange(length, device=qkv.device)
    distance = (place[:, None] - place[None, :]).clamp(-reach, reach) + reach
    index = slots[distance].long().expand(batch, config.num_attention_heads, length, length)
    bias = (query @ pos_key.transpose(-1, -2)).gather(-1, index)
    by_key = (key @ pos_query.transpose(-1, -2)).gather(-1, index.transpose(-1, -2))
    return bias + by_key.transpose(-1, -2)


def _ours(layer: SelfAttention, relative: torch.Tensor, slots: torch.Tensor) -> Call:
    layer.attend = disentangled_attention
    return lambda hidden, mask: layer(hidden, relative, slots, mask.int())


def _with_bias(layer: SelfAttention, relative: torch.Tensor, slots: torch.Tensor) -> Call:
    heads, scale = layer.config.num_attention_heads, layer.config.attention_scale

    def call(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        projections = (layer.query_proj, layer.key_proj, layer.value_proj)
        qkv = torch.cat([projection(hidden) for projection in projections], -1)
        bias = bias_of(layer, relative, slots, qkv)
        bias = bias.masked_fill(~mask.bool()[:, None, None, :], torch.finfo(bias.dtype).min)
        batch, length, _ = qkv.shape
        split = qkv.view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        context = nn.functional.scaled_dot_product_attention(
            split[0], split[1], split[2], attn_mask=bias, scale=scale
        )
        return context.transpose(1, 2).reshape(batch, length, -1)

    return call


def _loaded(module: nn.Module, layer: SelfAttention) -> nn.Module:
    """The other's layer with the weights of ours."""
    weight = layer.query_proj.weight
    module.load_state_dict(layer.state_dict())
    return module.to(weight.device, weight.dtype).eval().requires_grad_(False)


def _hf_config(fields: dict[str, Any]) -> Any:
    from transformers import DebertaV2Config

    return DebertaV2Config(**fields)


def _hugging_face(layer: SelfAttention, relative: torch.Tensor, fields: dict[str, Any]) -> Call:
    from transformers.models.deberta_v2.modeling_deberta_v2 import (
        DisentangledSelfAttention,
        build_relative_position,
    )

    module = _loaded(DisentangledSelfAttention(_hf_config(fields)), layer)

    def call(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        pairs = mask[:, None, :, None] * mask[:, None, None, :]
        positions = build_relative_position(
            hidden, hidden, bucket_size=fields["position_buckets"], max_position=512
        )
        context: torch.Tensor = module(
            hidden, pairs, relative_pos=positions, rel_embeddings=relative
        )[0]
        return context

    return call


def _flashdeberta(layer: SelfAttention, relative: torch.Tensor, fields: dict[str, Any]) -> Call:
    from flashdeberta.model import FlashDisentangledSelfAttention

    module = _loaded(FlashDisentangledSelfAttention(_hf_config(fields)), layer)
    return lambda hidden, mask: module(hidden, mask, rel_embeddings=relative)[0]


def _disentangled_flash(
    layer: SelfAttention, relative: torch.Tensor, fields: dict[str, Any]
) -> Call:
    from disentangled_flash import DisentangledFlashAttention

    module = _loaded(DisentangledFlashAttention(_hf_config(fields)), layer)
    return lambda hidden, mask: module(hidden, mask, rel_embeddings=relative)[0]


def _our_model(
    fields: dict[str, Any], state: dict[str, torch.Tensor], device: str, dtype: torch.dtype
) -> Call:
    model = make_model(DebertaConfig.from_dict(fields), Task.BASE, attention="fused")
    assert isinstance(model, DebertaModel)
    model.load_state_dict(state)
    ready = model.to(device, dtype).eval().requires_grad_(False)
    return lambda ids, mask: ready(ids, mask)[0]


def _hf_model(
    kind: str,
    fields: dict[str, Any],
    state: dict[str, torch.Tensor],
    device: str,
    dtype: torch.dtype,
) -> Call:
    config = _hf_config(fields)
    if kind == "flashdeberta":
        from flashdeberta import FlashDebertaV2Model

        model: Any = FlashDebertaV2Model(config)
    else:
        from transformers import DebertaV2Model

        model = DebertaV2Model(config)
    model.load_state_dict(state)
    model = model.to(device, dtype).eval().requires_grad_(False)
    if kind == "disentangled-flash":
        from disentangled_flash import optimize_deberta

        model = optimize_deberta(model)
    return lambda ids, mask: model(input_ids=ids, attention_mask=mask).last_hidden_state
