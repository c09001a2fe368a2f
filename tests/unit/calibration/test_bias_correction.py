"""Bias correction removes the mean error of a quantized layer."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from support.site_graphs import export_random

from calibration import initializers
from calibration.bias_correction import bias_shift, rounding_error
from calibration.formats import NumberFormat, round_trip, scale_of
from calibration.sites import find_sites

pytestmark = pytest.mark.usefixtures("shared_traces")


@pytest.mark.parametrize("number", [NumberFormat.INT8, NumberFormat.FP8])
def test_the_mean_of_the_output_is_that_of_the_float_layer(number: NumberFormat) -> None:
    rng = np.random.default_rng(0)
    # Like the output of GELU: no large negative values, so that saturation shifts the mean.
    x = np.maximum(rng.normal(0.5, 2.0, (501, 48)), -0.17).astype(np.float32)
    weight = rng.normal(0, 0.3, (48, 33)).astype(np.float32)
    threshold, columns = 3.0, np.abs(weight).max(axis=0) * np.float32(0.8)
    stored_x = round_trip(x, scale_of(threshold, number), number)
    stored_w = round_trip(weight, scale_of(columns, number), number)
    exact = x.astype(np.float64) @ weight
    before = (stored_x.astype(np.float64) @ stored_w - exact).mean(axis=0)
    assert np.abs(before).max() > 0.1

    error = rounding_error(x, threshold, number)
    np.testing.assert_allclose(error, (stored_x - x).mean(axis=0), rtol=1e-4, atol=1e-6)
    shift = bias_shift(weight, columns, x.mean(axis=0), error, number)
    assert shift.dtype == np.float32 and shift.shape == (33,)
    np.testing.assert_allclose(shift, -before, rtol=1e-3, atol=1e-4)


def test_an_exact_layer_is_not_shifted() -> None:
    weight = np.float32([[127, -5], [3, 127]])
    nothing = np.zeros(2, np.float32)
    shift = bias_shift(
        weight, np.float32([127, 127]), np.ones(2, np.float32), nothing, NumberFormat.INT8
    )
    assert np.abs(shift).max() < 1e-5


def test_the_shift_goes_into_the_bias_of_its_site(tmp_path: Path) -> None:
    path, _ = export_random(tmp_path, num_hidden_layers=1)
    model, plain = ir.load(path), ir.load(path)
    site = find_sites(model)[2]
    shift = np.arange(site.out_features, dtype=np.float32)
    initializers.transform(model, site.bias, partial(np.add, shift))
    for name in plain.graph.initializers:
        if initializers_are_float(plain, name):
            changed = initializers.read(model, name) - initializers.read(plain, name)
            if name == site.bias:
                np.testing.assert_allclose(changed, shift, atol=1e-5)
            else:
                assert not changed.any()


def initializers_are_float(model: ir.Model, name: str) -> bool:
    value = model.graph.initializers[name].const_value
    return value is not None and value.dtype == ir.DataType.FLOAT
