"""The reference model as a precision would have it without any plan: every product rounds.

What such a model errs by is the noise of the precision on this model, the unit of limits where no
plan says what a graph should compute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from calibration.formats import NumberFormat
from exporter.precision.emulate import quantized_input

_HALF_BITS = {"fp16": 11, "bf16": 8}
_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Embedding, nn.LayerNorm)


@torch.no_grad()
def round_model(model: nn.Module, precision: str) -> None:
    """Give a model in fp32 the rounding of a precision, in place.

    - fp32: it computes in float64, so that it differs from the reference by fp32's rounding.
    - fp16, bf16: weights, inputs and results of linear layers, convolutions, embeddings and
      LayerNorms have so few bits; the range is fp32's, since what overflows is a fault.
    - int8, fp8: weights and inputs of linear layers and embeddings, at one scale each, that of
      the largest value.
    """
    if precision == "fp32":
        model.double()
        return
    half = precision in _HALF_BITS
    rounded = _few_bits(_HALF_BITS[precision]) if half else _quantized(NumberFormat(precision))

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        first, *rest = inputs
        return (rounded(first) if first.is_floating_point() else first, *rest)

    for module in model.modules():
        if not isinstance(module, _WEIGHTED if half else (nn.Linear, nn.Embedding)):
            continue
        for name, weight in list(module.named_parameters(recurse=False)):
            if half or name == "weight":
                module.register_parameter(name, nn.Parameter(rounded(weight), requires_grad=False))
        module.register_forward_pre_hook(before)
        if half:
            module.register_forward_hook(lambda module, inputs, output: rounded(output))


def _few_bits(bits: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Round to a mantissa of `bits`, the leading one included.

    T. J. Dekker, "A floating-point technique for extending the available precision", Numerische
    Mathematik 18, 1971: splitting by a factor of 2^(24 - bits) + 1.
    """
    factor = 2.0 ** (24 - bits) + 1.0

    def rounded(values: torch.Tensor) -> torch.Tensor:
        large = values * factor
        return large - (large - values)

    return rounded


def _quantized(number: NumberFormat) -> Callable[[torch.Tensor], torch.Tensor]:
    def rounded(values: torch.Tensor) -> torch.Tensor:
        scale = values.abs().max() / number.largest
        return quantized_input(values, scale, number) if scale > 0 else values

    return rounded
