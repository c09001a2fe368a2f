"""The sites found in exported graphs of every variant of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from support.random_models import random_config, random_model
from support.site_graphs import export_random, feeds, values_of

from calibration.sites import SiteKind, find_sites, matmul_of
from exporter.deberta.checkpoint import open_checkpoint
from exporter.graph.export import export_onnx
from exporter.model.task import Task

pytestmark = pytest.mark.usefixtures("shared_traces")

ORDER = [SiteKind.QKV, SiteKind.ATTENTION_OUTPUT, SiteKind.INTERMEDIATE, SiteKind.OUTPUT]


@pytest.mark.parametrize("seed", (1, 10, 15, 23))
def test_four_sites_a_layer_in_order_whatever_the_variant(seed: int, tmp_path: Path) -> None:
    fields, task = random_config(seed)
    random_model(fields, task, seed).save_pretrained(tmp_path)
    export_onnx(open_checkpoint(tmp_path), tmp_path / "model.onnx")
    sites = find_sites(ir.load(tmp_path / "model.onnx"))
    layers = fields["num_hidden_layers"]
    assert [site.kind for site in sites] == ORDER * layers
    assert [site.layer for site in sites] == [i for i in range(layers) for _ in ORDER]
    hidden, inner = fields["hidden_size"], fields["intermediate_size"]
    width = fields["num_attention_heads"] * fields.get(
        "attention_head_size", hidden // fields["num_attention_heads"]
    )
    sizes = [(hidden, 3 * width), (width, hidden), (hidden, inner), (inner, hidden)]
    assert [(site.in_features, site.out_features) for site in sites] == sizes * layers
    assert list(dict.fromkeys(site.layer for site in sites)) == list(range(layers))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    return export_random(tmp_path_factory.mktemp("exported"))


def test_activation_times_weight_is_the_product(exported: tuple[Path, dict[str, Any]]) -> None:
    path, fields = exported
    model = ir.load(path)
    inputs = feeds(fields, Task.SEQUENCE_CLASSIFICATION)
    for site in find_sites(model):
        found = values_of(path, [site.activation, site.product], inputs)
        weight = model.graph.initializers[site.weight].const_value
        assert weight is not None
        expected = found[site.activation] @ weight.numpy()
        np.testing.assert_allclose(found[site.product], expected, rtol=1e-4, atol=1e-4)
        assert matmul_of(model, site).outputs[0].name == site.product


def test_a_graph_with_a_layer_less_is_refused(exported: tuple[Path, dict[str, Any]]) -> None:
    path, _ = exported
    model = ir.load(path)
    site = find_sites(model)[5]
    weight = model.graph.initializers.pop(site.weight)
    weight.name = "something.else"
    model.graph.initializers["something.else"] = weight
    with pytest.raises(RuntimeError, match="7 linear layers to quantize, expected 8"):
        find_sites(model)
    with pytest.raises(RuntimeError, match=r"no matrix product with .*output\.dense\.weight"):
        matmul_of(model, site)


def test_a_site_whose_bias_is_not_its_own_is_refused(exported: tuple[Path, dict[str, Any]]) -> None:
    path, _ = exported
    model = ir.load(path)
    first, second = (site for site in find_sites(model) if site.kind is SiteKind.OUTPUT)
    bias = model.graph.initializers[first.bias]
    other = model.graph.initializers[second.bias]
    bias.replace_all_uses_with(other)
    with pytest.raises(RuntimeError, match=f"added to {first.bias}"):
        find_sites(model)
