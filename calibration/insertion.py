"""Explicit quantization of sites: QuantizeLinear and DequantizeLinear in the standard opset.

`x -> Q -> DQ -> MatMul <- DQ <- weight`, the bias added in float. Activations have one scale for
the tensor, weights one for each output feature, zero points are 0. Measured with ONNX Runtime 1.32
and TensorRT-RTX 1.7: both turn this form into integer products, ONNX Runtime into
`MatMulIntegerToFloat`. The same with a quantized output, or as a 2-D Gemm with the reshapes around
it, is slower, and an unsigned zero point of 128 is what ONNX Runtime derives from it by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from calibration import initializers
from calibration.formats import Floats, NumberFormat, quantize, scale_of
from calibration.sites import Site, matmul_of


@dataclass(frozen=True)
class SiteScales:
    """The thresholds of one site: the magnitudes that the largest stored number stands for.

    Attributes:
        site: the site.
        activation: threshold of its input.
        weight: fp32 `(N,)`, thresholds of the columns of its weight.
        weight_format: of the weight; None for that of the input.
    """

    site: Site
    activation: float
    weight: Floats
    weight_format: NumberFormat | None = None

    @property
    def weight_bits(self) -> int:
        """Bits that its stored weight uses."""
        return 7 if self.weight_format is NumberFormat.INT7 else 8


@dataclass(frozen=True)
class InsertionReport:
    """What an insertion did.

    Attributes:
        sites: names of the quantized sites, in order.
        quantize_nodes: QuantizeLinear nodes in the graph.
        dequantize_nodes: DequantizeLinear nodes in the graph.
        float_bytes: bytes that the sites' weights took before.
        stored_bytes: bytes that they and their scales take now.
    """

    sites: tuple[str, ...]
    quantize_nodes: int
    dequantize_nodes: int
    float_bytes: int
    stored_bytes: int


def insert(model: ir.Model, scales: Sequence[SiteScales], number: NumberFormat) -> InsertionReport:
    """Quantize sites in place; their weights are quantized when they are written.

    Args:
        model: an exported fp32 graph.
        scales: the sites, each once.
        number: the format of activations, and of weights that have none of their own.

    Raises:
        ValueError: a format that activations do not have.
        RuntimeError: a site is not in the graph, or the nodes inserted are not those expected: a
            defect of ours.
    """
    if number is NumberFormat.INT7:
        raise ValueError("int7 is a format of weights: QuantizeLinear saturates at 127")
    graph = model.graph
    before = _counts(model)
    float_bytes = stored_bytes = 0
    zero: ir.Value | None = None
    if scales:
        none = quantize(np.zeros((), np.float32), np.ones((), np.float32), number)
        zero = initializers.add(model, f"{number.value}.zero_point", none, number.dtype)
    for item in scales:
        site = item.site
        node = matmul_of(model, site)
        weight_number = item.weight_format or number
        weight_scale = scale_of(item.weight, weight_number)
        if weight_scale.shape != (site.out_features,):
            raise RuntimeError(f"{site.name}: {weight_scale.shape} thresholds of its weight")
        activation = _activation(model, node, site, scale_of(item.activation, number), zero, number)
        weight = _weight(model, node, site, weight_scale, weight_number)
        node.replace_input_with(0, activation)
        node.replace_input_with(1, weight)
        del graph.initializers[site.weight]
        size = site.in_features * site.out_features
        float_bytes += 4 * size
        stored_bytes += size + weight_scale.nbytes
    report = InsertionReport(
        sites=tuple(item.site.name for item in scales),
        quantize_nodes=_counts(model)[0] - before[0],
        dequantize_nodes=_counts(model)[1] - before[1],
        float_bytes=float_bytes,
        stored_bytes=stored_bytes,
    )
    if (report.quantize_nodes, report.dequantize_nodes) != (len(scales), 2 * len(scales)):
        raise RuntimeError(
            f"{len(scales)} sites to quantize, but {report.quantize_nodes} QuantizeLinear and "
            f"{report.dequantize_nodes} DequantizeLinear nodes inserted"
        )
    return report


def _activation(
    model: ir.Model,
    node: ir.Node,
    site: Site,
    scale: Floats,
    zero: ir.Value | None,
    number: NumberFormat,
) -> ir.Value:
    """The site's input, quantized and dequantized before `node`."""
    source = node.inputs[0]
    if source is not None and not number.is_integer:
        source = _without_clip(model, source)
    scale_value = initializers.add(model, f"{site.name}.input_scale", scale)
    stored = ir.node(
        "QuantizeLinear", [source, scale_value, zero], name=f"{site.name}.input_quantize"
    )
    restored = ir.node(
        "DequantizeLinear",
        [stored.outputs[0], scale_value, zero],
        name=f"{site.name}.input_dequantize",
    )
    _describe(stored.outputs[0], f"{site.name}.input_stored", source, zero)
    _describe(restored.outputs[0], f"{site.name}.input_restored", source, scale_value)
    model.graph.insert_before(node, [stored, restored])
    return restored.outputs[0]


def _without_clip(model: ir.Model, source: ir.Value) -> ir.Value:
    """The same value, a Clip that gives it (ReLU6) written as Max and Min.

    ONNX Runtime 1.32 joins Clip and QuantizeLinear, and cannot load the graph if the stored type is
    an 8-bit float: "Unexpected data type for QuantizeLinear input y_zero_point".
    """
    clip = source.producer()
    if clip is None or clip.op_type != "Clip":
        return source
    name, value = source.name, clip.inputs[0]
    bounds = [*clip.inputs[1:], None, None][:2]
    nodes = []
    for op_type, bound in zip(("Max", "Min"), bounds, strict=True):
        if bound is not None:
            made = ir.node(op_type, [value, bound], name=f"{clip.name}.{op_type.lower()}")
            value = made.outputs[0]
            _describe(value, f"{name}.{op_type.lower()}", source, source)
            nodes.append(made)
    if value is None or not nodes:
        return source
    model.graph.insert_before(clip, nodes)
    source.replace_all_uses_with(value)
    model.graph.remove(clip, safe=True)
    value.name = name
    return value


def _weight(
    model: ir.Model, node: ir.Node, site: Site, scale: Floats, number: NumberFormat
) -> ir.Value:
    """The site's weight, stored in the format and dequantized before `node`."""
    stored = initializers.convert(
        model,
        site.weight,
        partial(quantize, scale=scale, number=number),
        number.dtype,
        f"{site.weight}.{number.value}",
    )
    scale_value = initializers.add(model, f"{site.weight}_scale", scale)
    restored = ir.node(
        "DequantizeLinear",
        [stored, scale_value],
        {"axis": 1},
        name=f"{site.weight}_dequantize",
    )
    _describe(restored.outputs[0], f"{site.weight}_restored", stored, scale_value)
    model.graph.insert_before(node, [restored])
    return restored.outputs[0]


def _describe(output: ir.Value, name: str, shaped: ir.Value | None, typed: ir.Value | None) -> None:
    """Name an output, with the shape of one value and the type of another."""
    output.name = name
    output.shape = None if shaped is None else shaped.shape
    output.type = None if typed is None else typed.type


def _counts(model: ir.Model) -> tuple[int, int]:
    """QuantizeLinear and DequantizeLinear nodes of the main graph."""
    kinds = [node.op_type for node in model.graph]
    return kinds.count("QuantizeLinear"), kinds.count("DequantizeLinear")
