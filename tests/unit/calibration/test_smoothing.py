"""Smoothing leaves what a graph computes alone, and finds outlier channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from support.site_graphs import export_random, feeds, run, run_model, values_of

from calibration.formats import NumberFormat, round_trip, scale_of
from calibration.sites import Site, SiteKind, find_sites
from calibration.smoothing import (
    apply,
    fold_into_values,
    multiply,
    search,
    smoothing_factors,
)
from exporter.model.task import Task

pytestmark = pytest.mark.usefixtures("shared_traces")

TASK = Task.SEQUENCE_CLASSIFICATION
Exported = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_random(tmp_path_factory.mktemp("exported"))


def site_of(kind: SiteKind, rows: int, columns: int) -> Site:
    return Site("a.b", kind, 0, "x", "y", "a.b.weight", "a.b.bias", rows, columns)


def amax_threshold(values: np.ndarray, channel_amax: np.ndarray) -> float:
    return float(channel_amax.max())


@pytest.mark.parametrize("kind", list(SiteKind))
def test_the_function_of_the_graph_stays(
    kind: SiteKind, exported: Exported, tmp_path: Path
) -> None:
    path, fields = exported
    inputs = feeds(fields, TASK)
    (expected,) = run(path, inputs)
    model = ir.load(path)
    sites = find_sites(model)
    rng = np.random.default_rng(0)
    smoothings = {
        site.name: np.exp(rng.normal(0, 2, site.in_features)).astype(np.float32)
        for site in sites
        if site.kind is kind
    }
    nodes = len(model.graph)
    report = apply(model, smoothings, sites)
    names = tuple(smoothings)
    free = kind is SiteKind.ATTENTION_OUTPUT
    assert (report.folded, report.multiplied) == ((names, ()) if free else ((), names))
    assert len(model.graph) - nodes == (0 if free else len(names))
    (actual,) = run_model(model, tmp_path, inputs)
    assert np.abs(actual - expected).max() < 2e-5 * np.abs(expected).max()
    # The matrices did change: the factors are not lost somewhere.
    after = find_sites(model)
    found = values_of(tmp_path / "written.onnx", [site.activation for site in after], inputs)
    before = values_of(path, [site.activation for site in sites], inputs)
    for old, new in zip(sites, after, strict=True):
        wanted = before[old.activation] / smoothings.get(old.name, np.float32(1))
        scale = np.abs(wanted).max(axis=0) + 1e-6
        assert (np.abs(found[new.activation] - wanted) / scale).max() < 2e-3


def test_all_kinds_together(exported: Exported, tmp_path: Path) -> None:
    path, fields = exported
    inputs = feeds(fields, TASK, batch=2, length=1)
    (expected,) = run(path, inputs)
    model = ir.load(path)
    sites = find_sites(model)
    rng = np.random.default_rng(1)
    factors = {s.name: np.exp(rng.normal(0, 1, s.in_features)).astype(np.float32) for s in sites}
    report = apply(model, factors, sites)
    assert (len(report.folded), len(report.multiplied)) == (2, 6)
    (actual,) = run_model(model, tmp_path, inputs)
    assert np.abs(actual - expected).max() < 2e-5 * np.abs(expected).max()


def test_factors_of_another_size_are_refused(exported: Exported) -> None:
    model = ir.load(exported[0])
    qkv, output, intermediate, _ = find_sites(model)[:4]
    with pytest.raises(RuntimeError, match="do not fit"):
        fold_into_values(model, qkv, output, np.ones(output.in_features + 1, np.float32))
    with pytest.raises(RuntimeError, match="for 48 channels"):
        multiply(model, intermediate, np.ones(47, np.float32))


def test_factors_balance_and_keep_the_range() -> None:
    rng = np.random.default_rng(0)
    activation = np.exp(rng.normal(0, 2, 33)).astype(np.float32)
    activation[5] = 0.0
    weight = rng.normal(0, 1, (33, 7)).astype(np.float32)
    weight[9] = 0.0
    for strength in (0.25, 0.5, 1.0):
        factors = smoothing_factors(activation, weight, strength)
        assert factors.dtype == np.float32 and (factors > 0).all()
        assert (activation / factors).max() == pytest.approx(activation.max(), rel=1e-5)
    # Full strength makes all channels that count equally large.
    rest = np.delete(activation / factors, [5, 9])
    assert rest.max() == pytest.approx(rest.min(), rel=1e-4)


def test_factors_do_not_depend_on_the_size_of_a_column() -> None:
    rng = np.random.default_rng(0)
    activation = np.exp(rng.normal(0, 2, 33)).astype(np.float32)
    weight = rng.normal(0, 1, (33, 7)).astype(np.float32)
    scaled = weight * np.float32([64, 1, 1, 0.01, 1, 1, 8])
    np.testing.assert_allclose(
        smoothing_factors(activation, scaled, 0.5),
        smoothing_factors(activation, weight, 0.5),
        rtol=1e-5,
    )


def test_zeros_need_no_smoothing() -> None:
    zeros = np.zeros(5, np.float32)
    np.testing.assert_array_equal(smoothing_factors(zeros, np.ones((5, 2), np.float32), 0.5), 1.0)
    site = site_of(SiteKind.QKV, 5, 2)
    sample = np.zeros((4, 5), np.float32)
    choice = search(site, sample, zeros, np.ones((5, 2), np.float32), lambda x, amax: 1.0)
    assert choice.strength is None and choice.factors is None


def test_outliers_are_found_and_the_error_falls() -> None:
    rng = np.random.default_rng(0)
    sample = rng.normal(0, 1, (300, 64)).astype(np.float32)
    sample[:, [3, 40]] *= 50
    weight = rng.normal(0, 0.05, (64, 96)).astype(np.float32)
    amax = np.abs(sample).max(axis=0)
    choice = search(site_of(SiteKind.INTERMEDIATE, 64, 96), sample, amax, weight, amax_threshold)
    assert choice.strength is not None and choice.factors is not None
    assert set(choice.errors) == {None, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9}
    assert choice.errors[choice.strength] == min(choice.errors.values())
    assert choice.errors[choice.strength] < 0.05 * choice.errors[None]
    # Oracle: the same error from the definition, in float64.
    x = round_trip(
        sample / choice.factors,
        scale_of(float(np.abs(sample / choice.factors).max()), NumberFormat.INT8),
        NumberFormat.INT8,
    ).astype(np.float64)
    smooth = weight * choice.factors[:, None]
    scale = np.abs(smooth).max(axis=0) / 127.0
    w = np.rint(smooth / scale) * scale
    exact = sample.astype(np.float64) @ weight
    expected = np.square(x @ w - exact).sum() / np.square(exact).sum()
    assert choice.errors[choice.strength] == pytest.approx(expected, rel=1e-3)


def test_a_node_has_to_be_worth_it() -> None:
    rng = np.random.default_rng(0)
    sample = rng.normal(0, 1, (300, 64)).astype(np.float32)
    sample[:, 3] *= 1.3
    weight = rng.normal(0, 0.05, (64, 96)).astype(np.float32)
    amax = np.abs(sample).max(axis=0)
    found = {}
    for kind in (SiteKind.ATTENTION_OUTPUT, SiteKind.OUTPUT):
        site = site_of(kind, 64, 96)
        found[kind] = search(site, sample, amax, weight, amax_threshold)
    free = found[SiteKind.ATTENTION_OUTPUT]
    assert free.strength is not None
    assert 0.5 * free.errors[None] < free.errors[free.strength] < free.errors[None]
    assert found[SiteKind.OUTPUT].strength is None


def test_queries_and_keys_are_judged_each_beside_itself() -> None:
    rng = np.random.default_rng(0)
    sample = rng.normal(0, 1, (200, 32)).astype(np.float32)
    sample[:, 7] *= 20
    weight = rng.normal(0, 0.1, (32, 48)).astype(np.float32)
    scaled = weight * np.exp(rng.normal(0, 3, 48)).astype(np.float32)
    amax = np.abs(sample).max(axis=0)
    site = site_of(SiteKind.QKV, 32, 48)
    one = search(site, sample, amax, weight, amax_threshold)
    other = search(site, sample, amax, scaled, amax_threshold)
    assert one.strength == other.strength
    for strength, error in one.errors.items():
        assert other.errors[strength] == pytest.approx(error, rel=1e-3)


def test_an_exact_product_has_no_error() -> None:
    sample = np.float32([[127, -127], [1, 5]])
    weight = np.float32([[127, 1], [-3, 127]])
    amax = np.abs(sample).max(axis=0)
    choice = search(site_of(SiteKind.OUTPUT, 2, 2), sample, amax, weight, amax_threshold)
    assert choice.errors[None] < 1e-12
