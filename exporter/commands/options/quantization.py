"""The options of int8 and fp8 builds, for `deb-export build`."""

from __future__ import annotations

from typing import Any

import click

from calibration.methods import METHODS
from exporter.commands.options.shared import FILE, option_group, take
from exporter.precision.quantized.options import RESTS, WEIGHT_BITS, QuantizationOptions

_NAMES = {
    "method": "calibration_method",
    "layers": "quantize_layers",
    "include": "quantize_include",
    "exclude": "quantize_exclude",
}
"""Options whose names on the command line say more, since they stand among others there."""

quantization_options = option_group(
    click.option(
        "--calibration-method",
        default=QuantizationOptions.method,
        metavar="|".join(METHODS),
        help="How thresholds of activations are chosen (int8).",
    ),
    click.option(
        "--percentile",
        type=float,
        default=QuantizationOptions.percentile,
        help="Of that method: percent of the values that are not clipped.",
    ),
    click.option(
        "--scale-table",
        type=FILE,
        help="calibration.json of an earlier build of the model, to use as it is.",
    ),
    click.option(
        "--quantize-layers", metavar="0-5,8", help="Encoder layers to quantize.  [default: all]"
    ),
    click.option(
        "--quantize-include",
        multiple=True,
        metavar="REGEX",
        help="Quantize only linear layers whose name contains a match; may be repeated.",
    ),
    click.option(
        "--quantize-exclude",
        multiple=True,
        metavar="REGEX",
        help="Keep linear layers whose name contains a match in float; may be repeated.",
    ),
    click.option(
        "--accuracy-budget",
        type=float,
        metavar="SHARE",
        help="Share of the decisions that quantization may change, as in 0.003; the most harmful "
        "linear layers fall back to float.",
    ),
    click.option(
        "--labels",
        is_flag=True,
        help="Each calibration text has a label; the budget is then one of accuracy.",
    ),
    click.option(
        "--rest",
        default=QuantizationOptions.rest,
        metavar="|".join(RESTS),
        help="Precision of what is not quantized (int8, fp8).",
    ),
    click.option(
        "--weight-bits",
        type=int,
        default=QuantizationOptions.weight_bits,
        metavar="|".join(map(str, WEIGHT_BITS)),
        help="Of int8 weights. 7 cannot saturate in x86 processors without VNNI, whatever the "
        "session's options, and rounds twice as coarsely.",
    ),
)


def take_quantization_options(options: dict[str, Any]) -> QuantizationOptions:
    """Take the options of quantized builds out of a command's options.

    Raises:
        InputError: one of them is out of range.
    """
    return QuantizationOptions(**take(QuantizationOptions, options, _NAMES))
