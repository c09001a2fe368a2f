"""The scale table: what is written is read, and what is wrong is refused."""

from __future__ import annotations

import base64
import copy
import json
import math
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.calibration_error import CalibrationError
from calibration.collectors import StatisticsCollector, TensorStatistics
from calibration.methods import METHODS, Method
from calibration.table import (
    ScaleTable,
    TensorScale,
    decode_array,
    encode_array,
)

MODEL, DATA = "a" * 64, "b" * 64


def statistics(seed: int, channels: int = 5) -> TensorStatistics:
    rows = np.random.default_rng(seed).standard_normal((100, channels)).astype(np.float32)
    collector = StatisticsCollector("x")
    collector.update(rows)
    return collector.result()


SEEN = {"layer.0.qkv": statistics(0), "layer.0.output": statistics(1, 8)}


def table(method: Method = "percentile", **options: Any) -> ScaleTable:
    made = ScaleTable.from_statistics(
        SEEN, model_hash=MODEL, data_hash=DATA, method=method, **options
    )
    entry = {"smoothing": 0.5, "fallback": None, "errors": [0.1, 2], "text": "é", "on": True}
    return made.with_sites({"layer.0.qkv": entry})


def same(first: ScaleTable, second: ScaleTable) -> bool:
    return json.dumps(first.to_dict()) == json.dumps(second.to_dict())


@pytest.mark.parametrize("method", METHODS)
def test_thresholds_are_those_of_the_statistics(method: Method) -> None:
    made = table(method, percentile=99.0)
    assert list(made.tensors) == list(SEEN)
    for name, seen in SEEN.items():
        item = made.tensors[name]
        assert item.amax == seen.threshold(method, percentile=99.0)
        assert (item.count, item.minimum, item.maximum) == (
            seen.count,
            seen.minimum,
            seen.maximum,
        )
        assert item.saturated == seen.histogram.share_above(item.amax)
        assert item.int8_scale == item.amax / 127
    assert made.percentile == (99.0 if method == "percentile" else None)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_saved_is_loaded_exactly(method: Method, tmp_path: Path) -> None:
    made = table(method)
    path = tmp_path / "calibration.json"
    made.save(path)
    read = ScaleTable.load(path)
    assert same(read, made)
    for name, item in made.tensors.items():
        assert read.tensors[name].amax == item.amax  # to the last bit
    assert read.sites == made.sites
    assert [file.name for file in tmp_path.iterdir()] == ["calibration.json"]


def test_the_file_has_the_documented_fields_and_nothing_of_the_machine(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    table().save(path)
    data = json.loads(path.read_text())
    assert set(data) == {
        "format",
        "schema",
        "model_hash",
        "data_hash",
        "method",
        "tensors",
        "sites",
    }
    assert data["method"] == {"name": "percentile", "percentile": 99.999}
    entry = data["tensors"]["layer.0.qkv"]
    assert set(entry) == {
        "amax",
        "int8_scale",
        "count",
        "min",
        "max",
        "saturated",
    }
    assert entry["int8_scale"] == entry["amax"] / 127
    assert str(tmp_path) not in path.read_text()
    again = tmp_path / "again.json"
    table().save(again)
    assert again.read_bytes() == path.read_bytes()


def test_saving_replaces_a_table_whole(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    table().save(path)
    before = path.read_bytes()
    broken = table().with_sites({"x": {"figure": math.nan}})
    with pytest.raises(ValueError, match="JSON compliant"):
        broken.save(path)
    assert path.read_bytes() == before
    with pytest.raises(OSError, match="no_folder"):
        table().save(tmp_path / "no_folder" / "calibration.json")
    assert [file.name for file in tmp_path.iterdir()] == ["calibration.json"]


def test_sites_are_added_and_replaced() -> None:
    made = table().with_sites({"other": {"a": 1}, "layer.0.qkv": {"b": 2}})
    assert made.sites == {"other": {"a": 1}, "layer.0.qkv": {"b": 2}}
    assert "other" not in table().sites


def test_a_table_is_of_one_model_and_one_text() -> None:
    made = table()
    assert made.matches(MODEL)
    assert made.matches(MODEL, DATA)
    assert not made.matches(MODEL, "c" * 64)
    assert not made.matches("c" * 64, DATA)
    made.require_model(MODEL, "x.json")
    with pytest.raises(CalibrationError, match=r"x\.json: the scale table of another model"):
        made.require_model("c" * 64, "x.json")


def test_arrays() -> None:
    values = np.array([0.0, 1.5, -3e-8, 3.4e38], np.float32)
    text = encode_array(values.astype(np.float64))
    assert base64.b64decode(text) == struct.pack("<4f", *values)
    np.testing.assert_array_equal(decode_array(text), values)
    assert decode_array(encode_array(np.zeros(0))).size == 0
    for bad in ("!", "AAA", "AAA=", "é"):
        with pytest.raises(CalibrationError, match="base64"):
            decode_array(bad)


@pytest.mark.parametrize(
    "change",
    [
        {"amax": 0.0},
        {"amax": -1.0},
        {"amax": math.nan},
        {"amax": math.inf},
        {"count": 0},
        {"minimum": math.nan},
        {"maximum": math.inf},
        {"minimum": 2.0},
        {"saturated": -0.1},
        {"saturated": 1.1},
        {"saturated": math.nan},
    ],
)
def test_figures_out_of_range_are_refused(change: dict[str, Any]) -> None:
    fine = {"amax": 1.0, "count": 1, "minimum": -1.0, "maximum": 1.0}
    TensorScale(**fine)  # type: ignore[arg-type]
    with pytest.raises(CalibrationError):
        TensorScale(**{**fine, **change})  # type: ignore[arg-type]


MISSING = object()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", "other", "not a scale table of deb-export"),
        ("schema", 2, "schema 2, this version reads 1"),
        ("schema", "1", "schema '1', this version reads 1"),
        ("model_hash", MISSING, "model_hash is missing"),
        ("model_hash", 7, "model_hash is 7; expected text"),
        ("data_hash", "", "data_hash is ''; expected text"),
        ("method", "mse", "method is no object"),
        ("method.name", "median", "method 'median'; known are minmax"),
        ("method.percentile", "99", "percentile is '99'; expected a number"),
        ("tensors", [], "tensors is no object"),
        ("tensors.t", 1.0, "t is no object"),
        ("tensors.t.amax", MISSING, "tensor 't': amax is missing"),
        ("tensors.t.amax", "1", "tensor 't': amax is '1'; expected a number"),
        ("tensors.t.amax", True, "tensor 't': amax is True; expected a number"),
        ("tensors.t.amax", 0, "tensor 't': amax is 0.0; it must be positive"),
        ("tensors.t.amax", -1.0, "tensor 't': amax is -1.0; it must be positive"),
        ("tensors.t.amax", 1e999, "tensor 't': amax is inf; it must be positive"),
        pytest.param("tensors.t.amax", 10**400, "tensor 't': amax is out of range", id="huge"),
        ("tensors.t.count", 1.5, "tensor 't': count is 1.5; expected a whole number"),
        ("tensors.t.min", 9.0, "tensor 't': the range is 9.0 to"),
        ("tensors.t.saturated", 2, "tensor 't': saturated is 2.0"),
        ("sites", None, "sites is no object"),
        ("sites.s", 1, "s is no object"),
    ],
)
def test_a_malformed_table_says_where(path: str, value: object, message: str) -> None:
    seen = {"t": statistics(0)}
    made = ScaleTable.from_statistics(
        seen, model_hash=MODEL, data_hash=DATA, method="percentile"
    ).with_sites({"s": {}})
    data = copy.deepcopy(made.to_dict())
    ScaleTable.from_dict(data)
    *parents, last = path.split(".")
    target = data
    for key in parents:
        target = target[key]
    if value is MISSING:
        del target[last]
    else:
        target[last] = value
    with pytest.raises(CalibrationError, match=re.escape(message)) as error:
        ScaleTable.from_dict(data, "my.json")
    assert str(error.value).count("my.json") == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"format": NaN}', b"[" * 10**5, b"null", b'"text"'],
)
def test_what_is_no_table_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match=r"calibration\.json: not a scale table"):
        ScaleTable.load(path)


def test_a_missing_table_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(CalibrationError, match="cannot read the scale table"):
            ScaleTable.load(path)


def test_a_later_version_may_add_fields(tmp_path: Path) -> None:
    data = table().to_dict()
    data["more"] = 1
    data["tensors"]["layer.0.qkv"]["more"] = 1
    assert same(ScaleTable.from_dict(data), table())


def test_zeros_and_saturation_are_pointed_out() -> None:
    assert table("minmax").warnings() == ()
    collector = StatisticsCollector("x")
    collector.update(np.zeros((10, 4), np.float32))
    zeros = collector.result()
    made = ScaleTable.from_statistics(
        {**SEEN, **{f"zero {index}": zeros for index in range(5)}},
        model_hash=MODEL,
        data_hash=DATA,
        method="percentile",
        percentile=50.0,
    )
    nothing, clipped = made.warnings()
    assert "zero 0, zero 1, zero 2 and 2 more" in nothing
    assert "percentile clips more than 1 % of the values of layer.0.qkv, layer.0.output" in clipped
