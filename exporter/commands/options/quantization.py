"""The options of int8 and fp8 builds, for `deb-export build`."""

from __future__ import annotations

from calibration.methods import METHODS
from exporter.commands.options.shared import config_options
from exporter.precision.quantized.quantization_options import (
    RESTS,
    WEIGHT_BITS,
    QuantizationOptions,
)

quantization_options = config_options(
    QuantizationOptions,
    {
        f"--calibration-method method {'|'.join(METHODS)}": "How thresholds of activations are "
        "chosen (int8).",
        "--percentile": "Of that method: percent of the values that are not clipped.",
        "--scale-table": "calibration.json of an earlier build of the model, to use as it is.",
        "--quantize-layers layers 0-5,8": "Encoder layers to quantize.  [default: all]",
        "--quantize-include include REGEX": "Quantize only linear layers whose name contains a "
        "match; may be repeated.",
        "--quantize-exclude exclude REGEX": "Keep linear layers whose name contains a match in "
        "float; may be repeated.",
        "--accuracy-budget SHARE": "Share of the decisions that quantization may change, as in "
        "0.003; the most harmful linear layers fall back to float.",
        "--calibration-labels labels": "Each calibration text has a label; the budget is then "
        "one of accuracy.",
        f"--rest {'|'.join(RESTS)}": "Precision of what is not quantized (int8, fp8).",
        "--quantize-embeddings/--no-quantize-embeddings": "Whether the tables of words and "
        "positions are stored in 8 bits as well.  [default: yes]",
        f"--weight-bits {'|'.join(map(str, WEIGHT_BITS))}": "Of int8 weights. 8 round half as "
        "coarsely, and saturate on x86 processors without VNNI in sessions that do not ask for "
        "exact products.  [default: 7, and 8 where engines alone are built]",
    },
)
