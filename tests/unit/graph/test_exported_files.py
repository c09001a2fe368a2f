"""The exported file: where weights lie, what it says of itself, what refuses it, who parses it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.torch import load_file, save_file
from support.random_models import random_config, random_model

from exporter.deberta.checkpoint import open_checkpoint
from exporter.errors import InputError
from exporter.graph.export import export_onnx
from exporter.graph.export_form import export_form
from exporter.graph.finish import check_graph
from exporter.graph.trace import trace
from exporter.model.task import ARCHITECTURES, Task, output_names
from plugins.disentangled_attention import contract

pytestmark = pytest.mark.usefixtures("shared_traces")


def save_random(folder: Path, seed: int, **changes: Any) -> tuple[dict[str, Any], Task, Any]:
    fields, task = random_config(seed)
    fields.update(changes)
    model = random_model(fields, task, seed)
    model.save_pretrained(folder)
    return fields, task, model


@pytest.mark.parametrize("external", [False, True])
def test_weights_inside_and_outside_the_file_are_the_same_model(
    external: bool, tmp_path: Path
) -> None:
    save_random(tmp_path, 3)
    path = tmp_path / "model.onnx"
    summary = export_onnx(open_checkpoint(tmp_path), path, external_data=external)
    data = tmp_path / "model.onnx.data"
    assert summary.files == ((path, data) if external else (path,))
    assert data.exists() == external
    onnx.checker.check_model(str(path), full_check=True)
    stored = load_file(tmp_path / "model.safetensors")
    arrays = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}
    name = "deberta.encoder.layer.1.intermediate.dense.weight"
    np.testing.assert_array_equal(arrays[name], stored[name].numpy().T)
    prefix = "deberta.encoder.layer.0.attention.self"
    packed = np.concatenate(
        [stored[f"{prefix}.{n}_proj.weight"] for n in ("query", "key", "value")]
    )
    np.testing.assert_array_equal(arrays[f"{prefix}.qkv.weight"], packed.T)


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    fields, task, _ = save_random(tmp_path, 4)
    metadata = {"deb_export.vocabulary_sha256": "0" * 64}
    export_onnx(open_checkpoint(tmp_path), tmp_path / "model.onnx", metadata=metadata)
    model = onnx.load(tmp_path / "model.onnx")
    held = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(held["deb_export.config"])["hidden_size"] == fields["hidden_size"]
    assert held["deb_export.task"] == task.value
    assert held["deb_export.vocabulary_sha256"] == "0" * 64
    assert model.producer_name == "deb-export"
    assert model.producer_version
    (function,) = model.functions
    assert (function.domain, function.name) == (contract.DOMAIN, contract.OP_TYPE)
    assert tuple(function.input) == contract.INPUTS
    assert tuple(function.output) == contract.OUTPUTS
    declared = set(function.attribute) | {a.name for a in function.attribute_proto}
    assert declared == set(contract.ATTRIBUTES)
    assert not any("pkg.torch" in p.key for node in model.graph.node for p in node.metadata_props)


def test_a_missing_attention_node_fails_the_check(tmp_path: Path) -> None:
    save_random(tmp_path, 5)
    checkpoint = open_checkpoint(tmp_path)
    model = trace(export_form(checkpoint), checkpoint.shape)
    layers = checkpoint.config.num_hidden_layers
    with pytest.raises(RuntimeError, match=f"{layers} attention nodes for {layers + 1} layers"):
        check_graph(model, layers + 1)


def test_nan_weights_are_named_and_nothing_is_left(tmp_path: Path) -> None:
    save_random(tmp_path, 2)
    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)
    name = "deberta.encoder.layer.1.output.dense.weight"
    tensors[name][0, 0] = float("nan")
    save_file(tensors, weights)
    for external in (False, True):
        with pytest.raises(InputError, match=name):
            export_onnx(open_checkpoint(tmp_path), tmp_path / "model.onnx", external_data=external)
        assert not list(tmp_path.glob("model.onnx*"))


@pytest.mark.parametrize("seed", range(6))
def test_tensorrt_rtx_parses_the_graph(seed: int, tmp_path: Path) -> None:
    tensorrt_rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    save_random(tmp_path, seed)
    export_onnx(open_checkpoint(tmp_path), tmp_path / "model.onnx")
    logger = tensorrt_rtx.Logger(tensorrt_rtx.Logger.ERROR)
    network = tensorrt_rtx.Builder(logger).create_network(0)
    parser = tensorrt_rtx.OnnxParser(network, logger)
    parsed = parser.parse_from_file(str(tmp_path / "model.onnx"))
    assert parsed, [str(parser.get_error(i)) for i in range(parser.num_errors)]
    assert network.num_outputs == len(output_names(list(ARCHITECTURES.values())[seed]))


@pytest.mark.parametrize("transform", ["fold_transposes", "write_residual_sums"])
def test_a_transform_that_misses_a_layer_is_a_defect(
    transform: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_random(tmp_path, 5)
    monkeypatch.setattr(f"exporter.graph.export.{transform}", lambda model: 1)
    with pytest.raises(RuntimeError, match=f"{transform} changed 1 nodes; the layers have"):
        export_onnx(open_checkpoint(tmp_path), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()
