"""What a build decided about numbers: what is rounded where, in the checkpoint's own names.

The passes of a build write their plan into the graph's metadata. `emulate` applies it to the
checkpoint without the graph, so that a parity check can tell whether the graph keeps to it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from calibration.formats import NumberFormat
from calibration.tables import TableRounding
from exporter.errors import InputError

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SitePlan:
    """How one linear layer `(N, K)` is quantized.

    Attributes:
        input_scale: what a step of its stored input is worth.
        weight_scale: fp32 `(N,)`, the same for each row of its weight.
        shift: fp32 `(N,)`, what is added to its bias.
        factors: fp32 `(K,)`, what its input is divided by and its weight multiplied; None for no
            smoothing, or one that was folded, see `PrecisionPlan.folded`.
    """

    input_scale: float
    weight_scale: np.ndarray
    shift: np.ndarray
    factors: np.ndarray | None = None


@dataclass(frozen=True)
class HalfArithmetic:
    """What is computed or stored in a half type.

    Attributes:
        dtype: "fp16" or "bf16".
        products: linear layers and convolutions whose input, weight and product are half.
        stored: weights that are stored in half, tables of embeddings among them.
        attention: encoder layers whose attention takes and gives half.
        fp32_terms: terms of the attention's scores that are computed in fp32 all the same.
    """

    dtype: str
    products: tuple[str, ...]
    stored: tuple[str, ...]
    attention: tuple[int, ...]
    fp32_terms: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class PrecisionPlan:
    """The plan of a graph; one of fp32 is empty.

    Attributes:
        number: format of the quantized inputs; None where nothing is quantized.
        weights: format of their weights.
        sites: the quantized linear layers by their path in the checkpoint, the three projections
            of the attention packed as `attention.self.qkv`.
        folded: fp32 `(H*D,)` by path of an attention's output layer: what its input is divided by
            and its weight multiplied, the division done in the value projection.
        half: what is half; None where nothing is.
        tables: how tables in int8 are rounded, by their name in the checkpoint, or that of an
            attention and `pos_key` or `pos_query`.
    """

    number: NumberFormat | None = None
    weights: NumberFormat | None = None
    sites: Mapping[str, SitePlan] = field(default_factory=dict)
    folded: Mapping[str, np.ndarray] = field(default_factory=dict)
    half: HalfArithmetic | None = None
    tables: Mapping[str, TableRounding] = field(default_factory=dict)

    def with_half(self, half: HalfArithmetic) -> PrecisionPlan:
        """The same with values in half."""
        return replace(self, half=half)


def encode_plan(plan: PrecisionPlan) -> str:
    """The plan as JSON, vectors as base64 of little-endian float32."""
    return msgspec.json.encode(plan, enc_hook=_encode).decode()


def decode_plan(text: str, where: str) -> PrecisionPlan:
    """The plan that `encode_plan` wrote.

    Raises:
        InputError: it is malformed; the message names `where` and the field.
    """
    try:
        return msgspec.json.decode(text, type=PrecisionPlan, dec_hook=_decode)
    except (msgspec.MsgspecError, ValueError) as error:
        raise InputError(f"{where}: its plan is malformed ({error}); build it again") from None


def _encode(value: Any) -> str:
    if not isinstance(value, np.ndarray):
        raise NotImplementedError(type(value))
    return base64.b64encode(np.ascontiguousarray(value, "<f4").tobytes()).decode()


def _decode(kind: type, value: Any) -> Floats:
    if kind is not np.ndarray or not isinstance(value, str):
        raise ValueError(f"expected a vector, got {value!r:.40}")
    return np.frombuffer(base64.b64decode(value, validate=True), "<f4").astype(np.float32)
