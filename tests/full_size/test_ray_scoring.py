"""`deb-export score --ray`: replicas on Ray, one of which is killed in the middle."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.checkpoints import write_checkpoint
from support.score_runs import rows_of_run, start_run, wait_for_shards, write_numbered

from exporter.pipeline.build_artifact import build
from exporter.pipeline.config import BuildConfig
from exporter.predictions.predicted import LabelPrediction
from exporter.runtime.load import load

pytestmark = pytest.mark.slow

pytest.importorskip("ray")
ROWS, SHARD = 12_000, 500


def replicas(driver: int) -> Iterator[psutil.Process]:
    """The processes of the model's actors."""
    for process in psutil.Process(driver).children(recursive=True):
        try:
            if "ray::" in "".join(process.cmdline()) and "Replica" in "".join(process.cmdline()):
                yield process
        except psutil.Error:
            continue


def test_a_killed_replica_loses_and_doubles_nothing(tmp_path: Path) -> None:
    data = tmp_path / "texts.txt"
    data.write_text("".join(f"text number {i}\n" for i in range(9)))
    folder = tmp_path / "artifact"
    model = write_checkpoint(tmp_path / "checkpoint", "sequence-classification")
    assert build(BuildConfig(model=model, output=folder, data=data, targets=("onnx",))).passed
    source, output = write_numbered(tmp_path / "in.jsonl", ROWS), tmp_path / "out"
    arguments = ["--shard-rows", SHARD, "--ray", "local", "--replicas", 2]
    run = start_run(folder, source, "--output", output, *arguments)
    try:
        wait_for_shards(output, 2, run)
        found = list(replicas(run.pid))
        assert len(found) == 2
        # What each computes with: no more threads than its share of one CPU.
        assert {process.environ().get("OMP_NUM_THREADS") for process in found} == {"1"}
        os.kill(found[0].pid, signal.SIGKILL)
        out, err = run.communicate(timeout=300)
    finally:
        run.kill()
    assert run.returncode == 0, err
    assert f"{ROWS} rows in {ROWS // SHARD} shards, {ROWS} scored" in out
    assert "Traceback" not in err
    rows = rows_of_run(output)
    assert [row["id"] for row in rows] == list(range(ROWS))
    assert not list(output.glob(".part-*"))
    with load(folder) as session:
        expected = session([row["text"] for row in rows[::10]])
    for row, answer in zip(rows[::10], expected, strict=True):
        assert isinstance(answer, LabelPrediction)
        assert row["prediction_best"] == answer.labels[0].label
        assert row["prediction_score"] == pytest.approx(answer.labels[0].score, rel=1e-5)
