"""What is used of TensorRT is in its 11.4 bindings: names, parameters, classes to derive from."""

from __future__ import annotations

import logging
from io import StringIO
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import tensorrt as trt
from support.tensorrt_names import BUILDER, PARAMETERS, RUNTIME, missing_names, parameters

from exporter.artifact.engine_record import EngineOptions
from exporter.engine import plan_file, worker
from exporter.engine.backend import TENSORRT
from exporter.model.profile import ShapeProfile

INPUTS = ["input_ids", "attention_mask"]
PROFILES = [ShapeProfile.parse("1,2,4x1,9,33"), ShapeProfile.parse("8x64")]


def test_the_version() -> None:
    assert trt.__version__.startswith("11.4.")


def test_every_name_is_there() -> None:
    assert missing_names(trt, {**RUNTIME, **BUILDER}) == []
    assert missing_names(trt, {"BuilderFlag": ("NO_SUCH",)}) == ["BuilderFlag.NO_SUCH"]


@pytest.mark.parametrize("method", PARAMETERS)
def test_parameters(method: str) -> None:
    found = parameters(trt, method)
    assert any(names[: len(PARAMETERS[method])] == PARAMETERS[method] for names in found), found


def test_classes_that_are_derived_from() -> None:
    log = plan_file._make_log(trt)
    log.log(trt.ILogger.ERROR, "a message")
    log.log(trt.ILogger.WARNING, "another")
    assert log.errors == ["a message"]
    stream = StringIO()
    monitor = worker._monitor(trt, worker.Channel(stream))
    monitor.phase_start("Building Engine", None, 4)
    assert monitor.step_complete("Building Engine", 0) is True
    assert "building engine" in stream.getvalue()


def test_polygraphy_configures_the_builder() -> None:
    """Its calls reach a configuration with TensorRT's attributes and no others."""
    logging.getLogger("Polygraphy").setLevel(logging.CRITICAL)
    options = EngineOptions(
        workspace_mib=256,
        optimization_level=3,
        version_compatible=True,
        hardware_compatible=True,
        refittable=True,
        strip_weights=True,
    )
    builder, network = MagicMock(spec=trt.Builder), MagicMock(spec=trt.INetworkDefinition)
    config = MagicMock(spec=trt.IBuilderConfig)
    builder.create_builder_config.return_value = config
    inputs = [MagicMock(spec=trt.ITensor) for _ in INPUTS]
    for tensor, name in zip(inputs, INPUTS, strict=True):
        tensor.name, tensor.dtype, tensor.shape = name, trt.int64, (-1, -1)
        tensor.is_shape_tensor = False
    network.num_inputs, network.get_input.side_effect = len(inputs), lambda index: inputs[index]
    network.__getitem__.side_effect = IndexError  # it has no layers
    profile = MagicMock(spec=trt.IOptimizationProfile)
    builder.create_optimization_profile.return_value = profile
    worker._check_inputs(network, INPUTS)
    request = worker.Request(
        "tensorrt", Path("g.onnx"), Path("p.plan"), tuple(INPUTS), tuple(PROFILES), options, "graph"
    )
    loader = worker._config(TENSORRT, trt, request, worker.Channel(StringIO()))
    assert loader(builder, network) is config
    flags = {call.args[0] for call in config.set_flag.call_args_list}
    expected = {"REFIT", "STRIP_PLAN", "VERSION_COMPATIBLE"}
    assert flags == {getattr(trt.BuilderFlag, name) for name in expected}
    config.set_memory_pool_limit.assert_called_once_with(trt.MemoryPoolType.WORKSPACE, 256 << 20)
    assert config.builder_optimization_level == 3
    assert config.hardware_compatibility_level == trt.HardwareCompatibilityLevel.AMPERE_PLUS
    assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
    assert config.add_optimization_profile.call_count == len(PROFILES)
    worker._exact_products(builder, network, config)
    config.clear_flag.assert_called_with(trt.BuilderFlag.TF32)
