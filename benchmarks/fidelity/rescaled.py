"""A checkpoint with outliers inside its attention, and the very same function.

Rows of the value projection are multiplied by up to 64 and the matching columns of the attention's
output projection are divided; rows of the query projection are multiplied and those of the key
projection divided, or the reverse. The position terms keep their values too: with shared
projections, position keys go through the key projection and meet the queries, and position queries
go through the query projection and meet the keys. All factors are powers of two, so that not even
a rounding changes in fp32.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

LARGEST = 6
"""Exponent of the largest factor: 2^6 = 64."""

SHARE = 1 / 8
"""Share of the rows that are scaled; the others keep their size and so are small beside them."""

SEED = 64


def rescale(source: Path, target: Path) -> None:
    """Write the rescaled weights and the configuration of the checkpoint `source` to `target`.

    Raises:
        ValueError: the model's position projections are not shared with the content's.
    """
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    if not config.get("share_att_key"):
        raise ValueError(f"{source}: share_att_key is off; its position projections stay as is")
    tensors = load_file(source / "model.safetensors")
    generator = torch.Generator().manual_seed(SEED)
    for number in range(config["num_hidden_layers"]):
        attention = f"deberta.encoder.layer.{number}.attention"
        output = f"{attention}.output.dense.weight"
        value = _factors(tensors[output].shape[1], generator)
        _scale_rows(tensors, f"{attention}.self.value_proj", value)
        tensors[output] = tensors[output] / value
        factors = _factors(len(value), generator)
        upwards = torch.randint(0, 2, factors.shape, generator=generator).bool()
        query = torch.where(upwards, factors, 1 / factors)
        _scale_rows(tensors, f"{attention}.self.query_proj", query)
        _scale_rows(tensors, f"{attention}.self.key_proj", 1 / query)
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    shutil.copy(source / "config.json", target)


def _factors(count: int, generator: torch.Generator) -> torch.Tensor:
    """2^k for `SHARE` of the rows, k uniform over 1 to `LARGEST`; 1 for the others."""
    exponents = torch.randint(1, LARGEST + 1, (count,), generator=generator)
    chosen = torch.rand(count, generator=generator) < SHARE
    return torch.where(chosen, 2.0**exponents, torch.ones(count))


def _scale_rows(tensors: dict[str, torch.Tensor], name: str, factors: torch.Tensor) -> None:
    """Multiply the rows of a linear layer's weight and the entries of its bias."""
    tensors[f"{name}.weight"] = tensors[f"{name}.weight"] * factors[:, None]
    tensors[f"{name}.bias"] = tensors[f"{name}.bias"] * factors
