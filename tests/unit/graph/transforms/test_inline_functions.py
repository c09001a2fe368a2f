"""Graphs without local functions compute the same; external data keeps its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from support.site_graphs import export_random, feeds, run

from exporter.errors import InputError
from exporter.graph.transforms.inline_functions import inlined
from exporter.model.task import Task

pytestmark = pytest.mark.usefixtures("shared_traces")


def test_nothing_is_left_of_the_functions_and_the_outputs_are_equal(tmp_path: Path) -> None:
    path, fields = export_random(tmp_path)
    model = inlined(path)
    assert onnx.load(path).functions
    assert not model.functions
    assert {node.domain for node in model.graph.node} == {""}
    onnx.checker.check_model(model, full_check=True)
    inputs = feeds(fields, Task.SEQUENCE_CLASSIFICATION)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (found,) = session.run(None, inputs)
    assert np.array_equal(found, run(path, inputs)[0])


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A graph with its weights in a file of their own."""
    path, _ = export_random(tmp_path / "model")
    target = tmp_path / "outside" / "model.onnx"
    target.parent.mkdir()
    onnx.save(
        onnx.load(path),
        target,
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=0,
    )
    return target


def test_external_data_stays_where_it_is(outside: Path) -> None:
    model = inlined(outside)
    places = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert places == {"model.onnx.data"}
    assert len(model.SerializeToString()) < 200_000


def test_unusable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.onnx: no such file"):
        inlined(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"\xff" * 99)
    with pytest.raises(InputError, match=r"bad\.onnx: not an ONNX file"):
        inlined(tmp_path / "bad.onnx")
