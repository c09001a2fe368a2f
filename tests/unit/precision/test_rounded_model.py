"""The reference with everything rounded: as the types of its precision round, and no more."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from exporter.precision.rounded_model import round_model


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.half), ("bf16", torch.bfloat16)])
def test_half_rounds_as_the_type_does(precision: str, dtype: torch.dtype) -> None:
    linear = nn.Linear(40, 30)
    values = 8.0 * torch.randn(50, 40, generator=torch.Generator().manual_seed(1))
    weight, bias = (item.detach().to(dtype).float() for item in (linear.weight, linear.bias))
    wanted = nn.functional.linear(values.to(dtype).float(), weight, bias).to(dtype).float()
    round_model(linear, precision)
    assert torch.equal(linear(values), wanted)


def test_half_keeps_what_fp16_would_overflow() -> None:
    linear = nn.Linear(4, 4)
    round_model(linear, "fp16")
    assert torch.isfinite(linear(torch.full((1, 4), 1e6))).all()


@pytest.mark.parametrize(("precision", "step"), [("int8", 1 / 127), ("fp8", 1 / 8)])
def test_8_bits_have_one_scale(precision: str, step: float) -> None:
    linear = nn.Linear(64, 32, bias=False)
    values = torch.randn(20, 64, generator=torch.Generator().manual_seed(1))
    exact = linear(values).detach()
    round_model(linear, precision)
    error = (linear(values) - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    # Half a step of the largest value, 4 deviations, in values and weights.
    assert step / 20 < error < 2 * step
    assert not linear(torch.zeros(1, 64)).any()


def test_fp32_computes_in_float64() -> None:
    linear = nn.Linear(4, 4)
    round_model(linear, "fp32")
    assert linear.weight.dtype == torch.float64
