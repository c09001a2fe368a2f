"""Explicit quantization of sites: QuantizeLinear and DequantizeLinear in the standard opset.

`x -> Q -> DQ -> MatMul <- DQ <- weight`, the bias added in float. Activations have one scale for
the tensor, weights one for each output feature, zero points are 0. Measured with ONNX Runtime 1.32
and TensorRT-RTX 1.7: both turn this form into integer products, ONNX Runtime into
`MatMulIntegerToFloat`. The same with a quantized output, or as a 2-D Gemm with the reshapes around
it, is slower, and an unsigned zero point of 128 is what ONNX Runtime derives from it by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from calibration import initializers
from calibration.formats import Floats, NumberFormat, quantize, scale_of
from calibration.graphs import put_before
from calibration.sites import Site, matmul_of


@dataclass(frozen=True)
class SiteScales:
    """The thresholds of one site: the magnitudes that the largest stored number stands for.

    Attributes:
        activation: threshold of the site's input.
        weight: fp32 `(N,)`, thresholds of the columns of its weight.
        weight_format: of the weight; None for that of the input.
    """

    site: Site
    activation: float
    weight: Floats
    weight_format: NumberFormat | None = None

    @property
    def weight_bits(self) -> int:
        return 7 if self.weight_format is NumberFormat.INT7 else 8


@dataclass(frozen=True)
class InsertionReport:
    """What an insertion did.

    Attributes:
        sites: names of the quantized sites, in order.
        float_bytes: bytes that the sites' weights took before.
        stored_bytes: bytes that they, their scales and zero points take now.
    """

    sites: tuple[str, ...]
    float_bytes: int
    stored_bytes: int


def insert(model: ir.Model, scales: Sequence[SiteScales], number: NumberFormat) -> InsertionReport:
    """Quantize sites of an fp32 graph in place; their weights are quantized when they are written.

    `number` is the format of activations, and of weights that have none of their own.

    Raises:
        ValueError: a format that activations do not have.
        RuntimeError: a site is not in the graph, or the nodes inserted are not those expected: a
            defect of ours.
    """
    if number is NumberFormat.INT7:
        raise ValueError("int7 is a format of weights: QuantizeLinear saturates at 127")
    before = Counter(node.op_type for node in model.graph)
    float_bytes = stored_bytes = 0
    zero: ir.Value | None = None
    if scales:
        none = quantize(np.zeros((), np.float32), np.ones((), np.float32), number)
        zero = initializers.add(model, f"{number.value}.zero_point", none, number.dtype)
    for item in scales:
        site, node = item.site, matmul_of(model, item.site)
        weight_number = item.weight_format or number
        scale = scale_of(item.weight, weight_number)
        if scale.shape != (site.out_features,):
            raise RuntimeError(f"{site.name}: {scale.shape} thresholds of its weight")
        node.replace_input_with(0, _activation(model, node, item, zero, number))
        node.replace_input_with(1, _weight(model, node, site, scale, weight_number))
        del model.graph.initializers[site.weight]
        size = site.in_features * site.out_features
        float_bytes += 4 * size
        stored_bytes += size + scale.nbytes + scale.size
    added = Counter(node.op_type for node in model.graph)
    added.subtract(before)
    nodes = added["QuantizeLinear"], added["DequantizeLinear"]
    if nodes != (len(scales), 2 * len(scales)):
        found = f"{nodes[0]} QuantizeLinear and {nodes[1]} DequantizeLinear nodes inserted"
        raise RuntimeError(f"{len(scales)} sites to quantize, but {found}")
    sites = tuple(item.site.name for item in scales)
    return InsertionReport(sites, float_bytes, stored_bytes)


def _activation(
    model: ir.Model, node: ir.Node, item: SiteScales, zero: ir.Value | None, number: NumberFormat
) -> ir.Value:
    """The site's input, quantized and dequantized before `node`."""
    source, name = node.inputs[0], f"{item.site.name}.input"
    assert source is not None and zero is not None
    if not number.is_integer:
        source = _by_max_and_min(model, source)
    scale = initializers.add(model, f"{name}_scale", scale_of(item.activation, number))
    quantized = ir.node("QuantizeLinear", [source, scale, zero], name=f"{name}_quantize")
    stored = put_before(node, model, quantized, f"{name}_stored", source, zero)
    dequantized = ir.node("DequantizeLinear", [stored, scale, zero], name=f"{name}_dequantize")
    return put_before(node, model, dequantized, f"{name}_restored", source, scale)


def _by_max_and_min(model: ir.Model, source: ir.Value) -> ir.Value:
    """The same value, a Relu or Clip (ReLU6) that gives it written as Max and Min.

    ONNX Runtime 1.32 joins both with QuantizeLinear, which is right for whole numbers alone: if the
    stored type is an 8-bit float, it drops the Relu, so that negative values pass, and cannot load
    the Clip: "Unexpected data type for QuantizeLinear input y_zero_point".
    """
    clip = source.producer()
    if clip is None or clip.op_type not in ("Relu", "Clip"):
        return source
    bounds = list(clip.inputs[1:])
    if clip.op_type == "Relu":
        bounds = [initializers.add(model, f"{clip.name}.zero", np.zeros((), np.float32))]
    if not any(bounds):
        return source
    name, value = source.name, clip.inputs[0]
    for op_type, bound in zip(("max", "min"), bounds, strict=False):
        if bound is not None:
            made = ir.node(op_type.title(), [value, bound], name=f"{clip.name}.{op_type}")
            value = put_before(clip, model, made, f"{name}.{op_type}", source, source)
    assert value is not None
    source.replace_all_uses_with(value)
    model.graph.remove(clip, safe=True)
    value.name = name
    return value


def _weight(
    model: ir.Model, node: ir.Node, site: Site, scale: Floats, number: NumberFormat
) -> ir.Value:
    """The site's weight, stored in the format and dequantized before `node`."""
    name, function = site.weight, partial(quantize, scale=scale, number=number)
    stored = initializers.convert(model, name, function, number.dtype, f"{name}.{number.value}")
    # In sessions with exact int8 products, ONNX Runtime 1.25 to 1.29 aborts where a weight has no
    # zero point, newer ones fail at fixed shapes, and most fail where two weights share one.
    zero = np.zeros(scale.shape, number.dtype.numpy())
    inputs = [
        stored,
        initializers.add(model, f"{name}_scale", scale),
        initializers.add(model, f"{name}_zero_point", zero, number.dtype),
    ]
    restored = ir.node("DequantizeLinear", inputs, {"axis": 1}, name=f"{name}_dequantize")
    return put_before(node, model, restored, f"{name}_restored", *inputs[:2])
