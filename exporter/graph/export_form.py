"""The reference model rewritten for export: query, key and value packed, positions folded.

Two things differ from `modeling.SelfAttention`: one matrix projects query, key and value, and the
projected relative embeddings are constants. Shapes only: the module holds no weights, and each of
its tensors has a recipe that makes it from the checkpoint when it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import nn

from exporter.deberta.checkpoint import Checkpoint
from exporter.deberta.configuration import DebertaConfig
from exporter.deberta.gliner_modeling import Gliner
from exporter.deberta.heads import encoder_of, make_model
from exporter.deberta.modeling import Encoder, SelfAttention
from exporter.graph.lstm_nodes import LstmNodes, lstm_recipes
from exporter.model.task import LastLayer
from plugins.disentangled_attention import contract

Recipe = Callable[[], torch.Tensor]


class PackedSelfAttention(nn.Module):
    """Self-attention as one node of the operator; traced, never run."""

    def __init__(self, config: DebertaConfig, queries: int | None) -> None:
        super().__init__()
        self.config, self.queries = config, queries
        heads, size = config.num_attention_heads, config.head_size
        slots = 2 * config.position_span
        self.qkv = nn.Linear(config.hidden_size, 3 * heads * size)
        self.pos_key = nn.Parameter(torch.empty(heads, slots if config.c2p else 1, size))
        self.pos_query = nn.Parameter(torch.empty(heads, slots if config.p2c else 1, size))

    def forward(
        self, hidden: torch.Tensor, relative: torch.Tensor, slots: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """`(B, S, E)` -> `(B, S, H*D)`, or the first `queries` of its rows; `relative` is folded
        into `pos_key` and `pos_query`."""
        qkv, config = self.qkv(hidden), self.config
        rows = qkv.shape[1] if self.queries is None else self.queries
        context: torch.Tensor = torch.onnx.ops.symbolic(
            f"{contract.DOMAIN}::{contract.op_type_of(self.queries)}",
            (qkv, self.pos_key, self.pos_query, slots, mask),
            attrs={
                "num_heads": config.num_attention_heads,
                "scale": config.attention_scale,
                "c2p": int(config.c2p),
                "p2c": int(config.p2c),
            },
            dtype=qkv.dtype,
            shape=(qkv.shape[0], rows, qkv.shape[2] // 3),
            version=contract.VERSION,
        )
        return context


@dataclass(frozen=True)
class ExportForm:
    """A model to trace, on the meta device, and how to make each of its tensors."""

    model: nn.Module
    recipes: Mapping[str, Recipe]
    """Name of a parameter or buffer -> fp32 (int32 for `slots`) tensor."""


def export_form(checkpoint: Checkpoint, last_layer: LastLayer = "full") -> ExportForm:
    """Rewrite the model of a checkpoint for export, without reading its weights.

    Raises:
        InputError: the head reads more of the last layer than `last_layer`.
    """
    config, task = checkpoint.config, checkpoint.task
    with torch.device("meta"):
        model = make_model(config, task, last_layer=last_layer).eval().float()
    encoder = encoder_of(model)
    names = model.state_dict()
    recipes: dict[str, Recipe] = {name: partial(checkpoint.read, name) for name in names}
    prefix = next(name for name, module in model.named_modules() if module is encoder)
    recipes[f"{prefix}.slots"] = partial(torch.Tensor.clone, encoder.slots)
    _replace_lstm(model, checkpoint, recipes)
    relative = lru_cache(maxsize=1)(partial(_relative_embeddings, checkpoint, prefix))

    for index in range(config.num_hidden_layers):
        path = f"{prefix}.layer.{index}.attention.self"
        attention = model.get_submodule(path)
        assert isinstance(attention, SelfAttention)
        for name in attention.state_dict():
            del recipes[f"{path}.{name}"]
        with torch.device("meta"):
            model.set_submodule(path, PackedSelfAttention(config, attention.queries))
        for part in ("weight", "bias"):
            recipes[f"{path}.qkv.{part}"] = partial(_packed, checkpoint, path, part)
        for position, name in enumerate(("pos_key", "pos_query")):
            make = partial(_projected_positions, checkpoint, path, relative, position)
            recipes[f"{path}.{name}"] = make
    return ExportForm(model, recipes)


def _replace_lstm(model: nn.Module, checkpoint: Checkpoint, recipes: dict[str, Recipe]) -> None:
    """The LSTM of GLiNER as nodes of ONNX, which PyTorch's exporter does not make of it."""
    if isinstance(model, Gliner) and model.rnn is not None:
        for name in model.rnn.state_dict():
            del recipes[f"rnn.{name}"]
        with torch.device("meta"):
            model.rnn = LstmNodes(model.head)
        recipes |= {
            f"rnn.{name}": recipe
            for name, recipe in lstm_recipes(model.head, checkpoint.read).items()
        }


def _packed(checkpoint: Checkpoint, path: str, part: str) -> torch.Tensor:
    names = ("query_proj", "key_proj", "value_proj")
    return torch.cat([checkpoint.read(f"{path}.{name}.{part}") for name in names])


@torch.no_grad()
def _relative_embeddings(checkpoint: Checkpoint, prefix: str) -> torch.Tensor:
    """`(R, E)`, as the reference encoder gives them."""
    with torch.device("meta"):
        encoder = Encoder(checkpoint.config)
    own = ("rel_embeddings.weight", "LayerNorm.weight", "LayerNorm.bias")
    names = [name for name in own if name in encoder.state_dict()]
    held = {name: checkpoint.read(f"{prefix}.{name}") for name in names}
    encoder.load_state_dict(held, assign=True, strict=False)
    return encoder.relative_embeddings(torch.zeros(1, checkpoint.config.hidden_size))


@torch.no_grad()
def _projected_positions(
    checkpoint: Checkpoint, path: str, relative: Callable[[], torch.Tensor], index: int
) -> torch.Tensor:
    """The reference layer's projections of the relative embeddings, `(H, R, D)`: `pos_key` at 0,
    `pos_query` at 1."""
    with torch.device("meta"):
        layer = SelfAttention(checkpoint.config)
    state = {name: checkpoint.read(f"{path}.{name}") for name in layer.state_dict()}
    layer.load_state_dict(state, assign=True)
    return layer.project_positions(relative())[index].contiguous()
