"""A bidirectional LSTM as nodes of ONNX, which know the length of each row.

PyTorch's exporter unrolls no packed sequence. ONNX's LSTM has its gates in another order, and both
directions in one tensor; `T` steps, `B` batch, `I` inputs, `H` hidden size of a direction.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from exporter.model.gliner_head import GlinerHead

_OPSET = 14  # of the operator's last change that this graph's opset has
_GATES = (0, 3, 1, 2)
"""ONNX's order (input, output, forget, cell) in PyTorch's (input, forget, cell, output)."""

_PARTS = {"W": ("weight_ih",), "R": ("weight_hh",), "B": ("bias_ih", "bias_hh")}
"""Inputs of the operator, and the parameters of PyTorch that each has of a direction."""

Read = Callable[[str], torch.Tensor]


class LstmNodes(nn.Module):
    """The LSTM of `gliner_modeling.WordLstm`; traced, never run."""

    def __init__(self, head: GlinerHead) -> None:
        super().__init__()
        self.size, self.layers = head.hidden_size // 2, head.num_rnn_layers
        gates = 4 * self.size
        for layer in range(self.layers):  # each reads both directions of the one before
            sizes = {"W": (2, gates, head.hidden_size), "R": (2, gates, self.size)}
            for part, size in (*sizes.items(), ("B", (2, 2 * gates))):
                self.register_parameter(f"{part}_{layer}", nn.Parameter(torch.empty(size)))

    def forward(self, words: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """`(B, T, 2 * H)` and `(B,)` -> `(B, T, 2 * H)`, zero beyond each length."""
        values, steps = words.transpose(0, 1), lengths.to(torch.int32)
        for layer in range(self.layers):
            weights = (self.get_parameter(f"{part}_{layer}") for part in _PARTS)
            found: torch.Tensor = torch.onnx.ops.symbolic(
                "LSTM",
                (values, *weights, steps),
                attrs={"hidden_size": self.size, "direction": "bidirectional"},
                dtype=values.dtype,
                shape=(values.shape[0], 2, values.shape[1], self.size),
                version=_OPSET,
            )
            values = found.transpose(1, 2).flatten(2)
        return values.transpose(0, 1)


def lstm_recipes(head: GlinerHead, read: Read) -> dict[str, Callable[[], torch.Tensor]]:
    """How to make each parameter of `LstmNodes`, by its name."""
    return {
        f"{part}_{layer}": partial(_made, read, part, layer)
        for part in _PARTS
        for layer in range(head.num_rnn_layers)
    }


def _made(read: Read, part: str, layer: int) -> torch.Tensor:
    return torch.stack(
        [
            torch.cat([_gates(read(f"rnn.lstm.{name}_l{layer}{end}")) for name in _PARTS[part]])
            for end in ("", "_reverse")
        ]
    )


def _gates(values: torch.Tensor) -> torch.Tensor:
    """`(4 * H, ...)` with its gates in ONNX's order."""
    blocks = values.chunk(4)
    return torch.cat([blocks[gate] for gate in _GATES])
