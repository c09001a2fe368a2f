"""Inserted quantization: the nodes, the numbers stored, and the kernels that ONNX Runtime takes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from support.site_graphs import exact_options, export_random, feeds, run, values_of

from calibration import initializers
from calibration.formats import NumberFormat, quantize, round_trip, scale_of
from calibration.insertion import SiteScales, insert
from calibration.sites import find_sites
from exporter.graph.write import write_model
from exporter.model.task import Task

pytestmark = pytest.mark.usefixtures("shared_traces")

TASK = Task.SEQUENCE_CLASSIFICATION


Exported = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_random(tmp_path_factory.mktemp("exported"))


def plain_scales(model: ir.Model, path: Path, inputs: dict[str, np.ndarray]) -> list[SiteScales]:
    """Largest magnitudes of inputs and columns."""
    sites = find_sites(model)
    seen = values_of(path, [site.activation for site in sites], inputs)
    return [
        SiteScales(
            site,
            float(np.abs(seen[site.activation]).max()),
            np.abs(initializers.read(model, site.weight)).max(axis=0),
        )
        for site in sites
    ]


@pytest.mark.parametrize(
    ("number", "weights"),
    [
        (NumberFormat.INT8, NumberFormat.INT8),
        (NumberFormat.INT8, NumberFormat.INT7),
        (NumberFormat.FP8, NumberFormat.FP8),
    ],
)
def test_the_quantized_graph_computes_quantized_products(
    number: NumberFormat, weights: NumberFormat, exported: Exported, tmp_path: Path
) -> None:
    path, fields = exported
    inputs = feeds(fields, TASK)
    model = ir.load(path)
    scales = [replace(item, weight_format=weights) for item in plain_scales(model, path, inputs)]
    matrices = {item.site.name: initializers.read(model, item.site.weight) for item in scales}
    report = insert(model, scales, number)
    kinds = Counter(node.op_type for node in model.graph)
    assert (kinds["QuantizeLinear"], kinds["DequantizeLinear"]) == (8, 16)
    assert report.sites == tuple(item.site.name for item in scales)

    written = tmp_path / "quantized.onnx"
    write_model(model, written)
    onnx.checker.check_model(str(written), full_check=True)
    stored = {tensor.name: tensor for tensor in onnx.load(str(written)).graph.initializer}
    for item in scales:
        site = item.site
        assert site.weight not in stored
        tensor = stored[f"{site.weight}.{weights.value}"]
        assert tensor.data_type == int(number.dtype)
        # Oracle: the product of the rounded input and weight, in float64.
        found = values_of(written, [site.activation, site.product], inputs)
        step = scale_of(item.activation, number)
        x = round_trip(found[site.activation], step, number)
        if number.is_integer:  # of inputs QuantizeLinear has -128 too, which few rows may reach
            x = np.clip(np.rint(found[site.activation] / step), -128, 127) * step
        w = round_trip(matrices[site.name], scale_of(item.weight, weights), weights)
        expected = x.astype(np.float64) @ w.astype(np.float64)
        np.testing.assert_allclose(
            found[site.product], expected, rtol=0, atol=2e-5 * np.abs(expected).max()
        )


@pytest.mark.parametrize("number", [NumberFormat.INT8, NumberFormat.FP8])
def test_a_clipped_activation_loads(number: NumberFormat, tmp_path: Path) -> None:
    # ONNX Runtime cannot load Clip before QuantizeLinear to an 8-bit float.
    path, fields = export_random(tmp_path / "relu6", num_hidden_layers=1, hidden_act="relu6")
    inputs = feeds(fields, TASK)
    model = ir.load(path)
    assert "Clip" in {node.op_type for node in model.graph}
    insert(model, plain_scales(model, path, inputs), number)
    written = tmp_path / "quantized.onnx"
    write_model(model, written)
    onnx.checker.check_model(str(written), full_check=True)
    before, after = (run(file, inputs)[0] for file in (path, written))
    assert np.abs(before - after).max() < 0.2 * np.abs(before).max()
    assert np.abs(before - after).max() > 0


@pytest.mark.parametrize("number", [NumberFormat.INT8, NumberFormat.FP8])
def test_a_relu_before_quantization_is_kept(number: NumberFormat, tmp_path: Path) -> None:
    # ONNX Runtime drops a Relu before QuantizeLinear, which for an 8-bit float is another function.
    path, fields = export_random(tmp_path / "relu", num_hidden_layers=1, hidden_act="relu")
    inputs = feeds(fields, TASK)
    model = ir.load(path)
    insert(model, plain_scales(model, path, inputs), number)
    written = tmp_path / "quantized.onnx"
    write_model(model, written)
    found = []
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        session = onnxruntime.InferenceSession(written, options, ["CPUExecutionProvider"])
        found.append(session.run(None, inputs)[0])
    plain, optimized = found
    np.testing.assert_allclose(optimized, plain, rtol=0, atol=1e-5 * np.abs(plain).max())


def test_onnx_runtime_multiplies_integers(exported: Exported, tmp_path: Path) -> None:
    path, fields = exported
    inputs = feeds(fields, TASK)
    model = ir.load(path)
    insert(model, plain_scales(model, path, inputs), NumberFormat.INT8)
    written, optimized = tmp_path / "quantized.onnx", tmp_path / "optimized.onnx"
    write_model(model, written)
    run(written, inputs, optimized)
    graph = onnx.load(str(optimized)).graph
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["MatMulIntegerToFloat"] == 8
    assert kinds["QuantizeLinear"] == 8
    assert kinds["DequantizeLinear"] == 0
    weights = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    floats = [node for node in graph.node if node.op_type in ("MatMul", "Gemm", "FusedMatMul")]
    # What is left multiplies activations, or is the pooler and the classifier.
    assert sum(any(name in weights for name in node.input) for node in floats) == 2


def test_zero_points_are_zero_and_axes_are_columns(exported: Exported) -> None:
    path, fields = exported
    model = ir.load(path)
    insert(model, plain_scales(model, path, feeds(fields, TASK)), NumberFormat.INT8)
    own = []
    for node in model.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            _, scale, zero = node.inputs
            assert zero.const_value.dtype == ir.DataType.INT8
            assert not zero.const_value.numpy().any()
            assert zero.shape == scale.shape
            if scale.shape.rank():
                assert node.attributes["axis"].as_int() == 1
                assert scale.shape[0] == node.inputs[0].shape[1]
                own.append(zero.name)
    assert len(own) == len(set(own)) == 8


@pytest.mark.parametrize("number", [NumberFormat.INT8, NumberFormat.FP8])
def test_any_session_opens_it(number: NumberFormat, exported: Exported, tmp_path: Path) -> None:
    """Exact products or not, each optimization level, dynamic and fixed shapes: equal outputs.

    Of weights without zero points of their own this fails with exact products at fixed shapes.
    """
    path, fields = exported
    inputs = feeds(fields, TASK)
    model = ir.load(path)
    insert(model, plain_scales(model, path, inputs), number)
    written = tmp_path / "quantized.onnx"
    write_model(model, written)
    (expected,) = run(written, inputs)
    for exact, fixed, level in product((True, False), (True, False), range(3)):
        options = exact_options() if exact else onnxruntime.SessionOptions()
        # Level 2 is optimized in full, as by default.
        name = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_ALL")[level]
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, name)
        if fixed:
            for size, extent in zip(("batch", "sequence"), inputs["input_ids"].shape, strict=True):
                options.add_free_dimension_override_by_name(size, extent)
        session = onnxruntime.InferenceSession(str(written), options)
        (found,) = session.run(None, inputs)
        if exact or number is NumberFormat.FP8 or level == 0:
            np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_weights_stay_unread_until_they_are_written(exported: Exported, tmp_path: Path) -> None:
    path, fields = exported
    inputs = feeds(fields, TASK)
    model = ir.load(path)
    scales = plain_scales(model, path, inputs)
    reads = []

    def counted(weight: np.ndarray) -> np.ndarray:
        reads.append(weight.shape)
        return weight

    for item in scales:
        initializers.transform(model, item.site.weight, counted)
    insert(model, scales, NumberFormat.INT8)
    assert reads == []
    write_model(model, tmp_path / "quantized.onnx")
    assert len(reads) == len(scales)


def test_seven_bits_cannot_saturate_sixteen(exported: Exported, tmp_path: Path) -> None:
    """Sessions without any option of ours, on whatever processor: exact integers all the same."""
    path, fields = exported
    inputs = feeds(fields, TASK)
    model = ir.load(path)
    scales = [
        replace(item, weight_format=NumberFormat.INT7) for item in plain_scales(model, path, inputs)
    ]
    assert {item.weight_bits for item in scales} == {7}
    insert(model, scales, NumberFormat.INT8)
    written = tmp_path / "quantized.onnx"
    write_model(model, written)
    stored = {tensor.name: tensor for tensor in onnx.load(str(written)).graph.initializer}
    for item in scales:
        weight = onnx.numpy_helper.to_array(stored[f"{item.site.weight}.int7"]).astype(int)
        assert np.abs(weight).max() == 64
        assert 255 * np.abs(weight).max() * 2 < 2**15
    names = [item.site.product for item in scales]
    exact = values_of(written, names, inputs)
    plain = values_of(written, names, inputs, onnxruntime.SessionOptions())
    for name in names:
        np.testing.assert_allclose(plain[name], exact[name], rtol=1e-5, atol=1e-6)


def test_activations_have_eight_bits(exported: Exported) -> None:
    with pytest.raises(ValueError, match="format of weights"):
        insert(ir.load(exported[0]), [], NumberFormat.INT7)


def test_a_site_is_not_quantized_twice(exported: Exported) -> None:
    path, fields = exported
    model = ir.load(path)
    scales = plain_scales(model, path, feeds(fields, TASK))
    insert(model, scales[:1], NumberFormat.INT8)
    with pytest.raises(RuntimeError, match="no matrix product"):
        insert(model, scales[:1], NumberFormat.INT8)


def test_thresholds_of_another_size_are_refused(exported: Exported) -> None:
    path, _ = exported
    model = ir.load(path)
    site = find_sites(model)[0]
    scales = SiteScales(site, 1.0, np.ones(site.out_features + 1, np.float32))
    with pytest.raises(RuntimeError, match="thresholds of its weight"):
        insert(model, [scales], NumberFormat.INT8)


def test_int8_rounds_to_even_and_saturates_at_127() -> None:
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 127.6, -300.0], np.float32)
    stored = quantize(values, np.float32([1.0]), NumberFormat.INT8)
    assert stored.dtype == np.int8
    assert stored.tolist() == [0, 2, 2, 0, -2, 126, 127, -127]


def test_fp8_is_that_of_torch() -> None:
    values = (np.random.default_rng(0).normal(0, 40, 4096)).astype(np.float32)
    values[:4] = [1e6, -1e6, 448.0, 1e-4]
    stored = quantize(values, np.float32([1.0]), NumberFormat.FP8)
    expected = torch.from_numpy(values).clamp(-448, 448).to(torch.float8_e4m3fn).float().numpy()
    np.testing.assert_array_equal(stored.astype(np.float32), expected)
    assert np.isfinite(expected).all()


def test_a_scale_is_positive_for_zeros() -> None:
    scale = scale_of(np.float32([0.0, 127.0]), NumberFormat.INT8)
    assert scale[1] == 1.0 and 0 < scale[0] < 1e-20
    zeros = np.zeros((2, 2), np.float32)
    assert not round_trip(zeros, scale, NumberFormat.INT8).any()
    assert np.isfinite(1 / scale).all()
