"""What tests share of an export changes nothing in its file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.shared_traces import SharedTraces

from exporter.deberta.checkpoint import open_checkpoint
from exporter.graph import export
from exporter.graph.trace import trace

MakeCheckpoint = Callable[..., Path]


@pytest.mark.parametrize("task", ["sequence-classification", "masked-lm"])
def test_an_export_of_a_shared_trace_is_that_of_its_own(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    runs = []
    shared = SharedTraces(lambda *given: (runs.append(given), trace(*given))[1])
    paths = [make_checkpoint(task, seed=seed) for seed in (1, 2)]
    for name, function in (("shared", shared.trace), ("own", trace)):
        monkeypatch.setattr(export, "trace", function)
        for index, path in enumerate(paths):
            export.export_onnx(open_checkpoint(path), tmp_path / f"{name}{index}.onnx")
    assert len(runs) == 1
    files = {path.stem: path.read_bytes() for path in tmp_path.iterdir()}
    assert files["shared0"] == files["own0"] and files["shared1"] == files["own1"]
    assert files["own0"] != files["own1"]


def test_another_architecture_is_traced_anew(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    shared = SharedTraces(lambda *given: (runs.append(given), trace(*given))[1])
    monkeypatch.setattr(export, "trace", shared.trace)
    for position_terms in (["p2c", "c2p"], ["c2p"]):
        checkpoint = open_checkpoint(make_checkpoint(pos_att_type=position_terms))
        export.export_onnx(checkpoint, tmp_path / f"{len(position_terms)}.onnx")
    assert len(runs) == 2
