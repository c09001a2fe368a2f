"""Activation functions by the names that configurations use (`ACT2FN` of transformers).

Each is a module, since two of them (`prelu`, `xielu`) carry parameters that a checkpoint stores.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
from torch import nn
from torch.nn import functional as F

_Number: TypeAlias = torch.Tensor | float


class Elementwise(nn.Module):
    """An activation without parameters."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class XIELU(nn.Module):
    """xIELU (Huang and Schlag, arXiv:2411.13010), in the parametrisation of transformers."""

    def __init__(self) -> None:
        super().__init__()
        # transformers makes these in bfloat16: so do their initial values round.
        self.alpha_p = nn.Parameter(torch.log(torch.expm1(_bf16([0.8]))))
        self.alpha_n = nn.Parameter(torch.log(torch.expm1(_bf16([0.8 - 0.5]))))
        self.register_buffer("beta", _bf16(0.5))
        self.register_buffer("eps", _bf16(-1e-6))
        self.beta: torch.Tensor
        self.eps: torch.Tensor

    def constants(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The slopes of the positive and the negative side, `(1,)` each."""
        return F.softplus(self.alpha_p), self.beta + F.softplus(self.alpha_n)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _xielu(*self.constants(), self.beta, self.eps, x)


def _xielu(
    alpha_p: _Number, alpha_n: _Number, beta: _Number, eps: _Number, x: torch.Tensor
) -> torch.Tensor:
    negative = (torch.expm1(torch.clamp(x, max=eps)) - x) * alpha_n
    return torch.where(x > 0, alpha_p * x * x, negative) + beta * x


def _bf16(value: float | list[float]) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.bfloat16)


def _laplace(x: torch.Tensor) -> torch.Tensor:
    # Ma et al., "Mega: Moving Average Equipped Gated Attention", arXiv:2209.10655.
    return 0.5 * (1.0 + torch.erf((x - 0.707107) / (0.282095 * math.sqrt(2.0))))


_gelu_tanh = partial(F.gelu, approximate="tanh")
FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "gelu_10": lambda x: torch.clip(F.gelu(x), -10.0, 10.0),
    "gelu_accurate": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_new": _gelu_tanh,
    "gelu_python": F.gelu,
    "gelu_python_tanh": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "hardswish": F.hardswish,
    "laplace": _laplace,
    "leaky_relu": F.leaky_relu,
    "linear": lambda x: x,
    "mish": F.mish,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "relu2": lambda x: torch.square(F.relu(x)),
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "sqrtsoftplus": lambda x: torch.sqrt(F.softplus(x)),
    "swish": F.silu,
    "tanh": torch.tanh,
}


def fixed_activation(name: str) -> nn.Module:
    """The activation called `name` with nothing in the state dict.

    For the pooler and the convolution, where transformers makes the activation anew at each call,
    so that the parameters of `prelu` and `xielu` are always the initial ones.
    """
    if name == "prelu":
        return Elementwise(partial(F.leaky_relu, negative_slope=0.25))
    if name == "xielu":
        with torch.device("cpu"), torch.no_grad():
            module = XIELU()
            constants = (*module.constants(), module.beta, module.eps)
        alpha_p, alpha_n, beta, eps = (float(constant) for constant in constants)
        return Elementwise(partial(_xielu, alpha_p, alpha_n, beta, eps))
    return Elementwise(FUNCTIONS[name])


def make_activation(name: str) -> nn.Module:
    """The activation called `name`, one of `configuration.ACTIVATIONS`, as a module.

    `prelu` and `xielu` have parameters; their initial values are those of transformers.
    """
    trained = {"prelu": nn.PReLU, "xielu": XIELU}
    return trained[name]() if name in trained else Elementwise(FUNCTIONS[name])
