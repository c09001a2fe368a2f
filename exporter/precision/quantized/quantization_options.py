"""Options of int8 and fp8 builds. They are read here and nowhere else has a default for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from calibration.calibration_error import CalibrationError
from calibration.methods import METHODS, PERCENTILE, Method
from exporter.errors import InputError

if TYPE_CHECKING:
    from calibration.formats import NumberFormat
    from calibration.placement import PlacementPolicy

RESTS = ("fp32", "fp16", "bf16")
"""Precisions of what is not quantized."""

WEIGHT_BITS = (7, 8)
"""Bits that an int8 weight uses, see docs/quantization.md."""


@dataclass(frozen=True)
class QuantizationOptions:
    """How a graph is quantized.

    `include` and `exclude` are regular expressions: where any of the first is given, only linear
    layers whose name contains a match are quantized, and any match of the second stays in float.

    Attributes:
        percentile: of that method: the share of values, in percent, that is not clipped.
        layers: encoder layers to quantize, as in `0-5,8`; None for all.
        accuracy_budget: share of the decisions that may change; what harms most falls back to
            float. None quantizes all that is selected.
        labels: whether each calibration text has a label, so that the budget is one of accuracy.
        scale_table: `calibration.json` of an earlier build of the same model, to use as it is.
        rest: precision of what is not quantized, one of `RESTS`.
        weight_bits: that an int8 weight uses, one of `WEIGHT_BITS`; None is 7, which no processor
            can get wrong, and in builds for engines alone 8.
        quantize_embeddings: whether tables of words and positions are quantized too.

    Raises:
        InputError: a value is out of range, or layers or an expression are malformed.
    """

    method: Method = "minmax"
    percentile: float = PERCENTILE
    layers: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    accuracy_budget: float | None = None
    labels: bool = False
    scale_table: Path | None = None
    rest: str = "fp32"
    weight_bits: int | None = None
    quantize_embeddings: bool = True

    def __post_init__(self) -> None:
        for option, value, choices in (
            ("--calibration-method", self.method, METHODS),
            ("--rest", self.rest, RESTS),
            ("--weight-bits", self.weight_bits, (*WEIGHT_BITS, None)),
        ):
            if value not in choices:
                known = ", ".join(str(choice) for choice in choices if choice is not None)
                raise InputError(f"{option} {value!r}: unknown; choose from {known}")
        if not 0 < self.percentile <= 100:
            raise InputError(f"--percentile {self.percentile}: give one above 0 and at most 100")
        if self.percentile != PERCENTILE and self.method != "percentile":
            raise InputError(
                f"--percentile: --calibration-method {self.method} has no use for it; "
                "give --calibration-method percentile"
            )
        if self.accuracy_budget is not None and not 0 <= self.accuracy_budget < 1:
            raise InputError(
                f"--accuracy-budget {self.accuracy_budget}: give a share, as in 0.003 for 0.3 %"
            )
        if self.labels and self.accuracy_budget is None:
            raise InputError(
                "--calibration-labels: only --accuracy-budget has a use for them; give one"
            )
        if self.scale_table is not None:
            object.__setattr__(self, "scale_table", Path(self.scale_table))
        if self.layers is not None or self.include or self.exclude:
            try:
                self.policy()
            except CalibrationError as error:
                raise InputError(str(error)) from None

    def weights(self, number: NumberFormat) -> NumberFormat:
        """The format of weights, where that of activations is `number`."""
        from calibration.formats import NumberFormat

        seven = number is NumberFormat.INT8 and self.weight_bits != 8
        return NumberFormat.INT7 if seven else number

    def policy(self) -> PlacementPolicy:
        """What is quantized."""
        from calibration.placement import PlacementPolicy, parse_layers

        layers = None if self.layers is None else parse_layers(self.layers)
        return PlacementPolicy(layers=layers, include=self.include, exclude=self.exclude)

    def check_layers(self, count: int) -> None:
        """Raise `InputError` for a layer that a model of so many does not have."""
        for layer in self.policy().layers or ():
            if layer >= count:
                raise InputError(
                    f"placement: no layer {layer}; the model has layers 0 to {count - 1}"
                )
