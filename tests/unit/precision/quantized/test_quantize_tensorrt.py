"""TensorRT-RTX parses the quantized graphs and builds engines of them, with no GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from support.site_graphs import export_random, feeds, values_of

from calibration import initializers
from calibration.formats import NumberFormat
from calibration.insertion import SiteScales, insert
from calibration.sites import SiteKind, find_sites
from calibration.smoothing import multiply
from exporter.graph.write import write_model
from exporter.model.task import Task

pytestmark = pytest.mark.usefixtures("shared_traces")

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")

TASK = Task.SEQUENCE_CLASSIFICATION


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    return export_random(
        tmp_path_factory.mktemp("exported"),
        hidden_size=64,
        num_attention_heads=2,
        intermediate_size=128,
        num_hidden_layers=1,
        type_vocab_size=0,
    )


def quantized(path: Path, fields: dict[str, Any], number: NumberFormat, target: Path) -> None:
    inputs = feeds(fields, TASK)
    model = ir.load(path)
    sites = find_sites(model)
    seen = values_of(path, [site.activation for site in sites], inputs)
    scales = []
    for site in sites:
        if site.kind is SiteKind.OUTPUT:
            multiply(model, site, np.linspace(0.5, 2, site.in_features, dtype=np.float32))
        weight = initializers.read(model, site.weight)
        scales.append(
            SiteScales(site, float(np.abs(seen[site.activation]).max()), np.abs(weight).max(axis=0))
        )
    insert(model, scales, number)
    write_model(model, target)


@pytest.mark.parametrize("number", [NumberFormat.INT8, NumberFormat.FP8])
def test_an_engine_is_built(
    number: NumberFormat, exported: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "quantized.onnx"
    quantized(*exported, number, path)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)  # strongly typed: the types are the graph's
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(path)), [
        parser.get_error(index).desc() for index in range(parser.num_errors)
    ]
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    stored = trt.DataType.INT8 if number is NumberFormat.INT8 else trt.DataType.FP8
    outputs = [
        layer.get_output(0).dtype for layer in layers if layer.type == trt.LayerType.QUANTIZE
    ]
    assert outputs == [stored] * 4
    # Weights stay in the format up to the product: nothing was folded to float.
    weights = [
        layer
        for layer in layers
        if layer.type == trt.LayerType.CONSTANT
        and layer.get_output(0).dtype == stored
        and len(layer.get_output(0).shape) == 2
    ]
    assert len(weights) == 4

    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        profile.set_shape(network.get_input(index).name, (1, 1), (3, 17), (8, 64))
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None and engine.nbytes > 10_000


def test_a_zero_point_would_be_refused(
    exported: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Why activations are symmetric."""
    path = tmp_path / "quantized.onnx"
    quantized(*exported, NumberFormat.INT8, path)
    model = ir.load(path)
    zero = model.graph.initializers["int8.zero_point"]
    zero.const_value = ir.Tensor(np.array(3, np.int8), name=zero.name)
    write_model(model, path)
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    network = trt.Builder(logger).create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert not parser.parse_from_file(str(path))
