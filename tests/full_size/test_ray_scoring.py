"""`deb-export score --ray`: a replica and a machine of a Ray cluster are killed in the middle."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.checkpoints import write_checkpoint
from support.score_runs import rows_of_run, start_run, wait_for_shards, write_numbered

from exporter.errors import InputError
from exporter.pipeline.build_artifact import build
from exporter.pipeline.config import BuildConfig
from exporter.predictions.predicted import LabelPrediction
from exporter.runtime.load import load
from exporter.runtime.runtime_options import RuntimeOptions
from exporter.scoring.score_config import ScoreConfig

pytestmark = pytest.mark.slow

pytest.importorskip("ray")
ROWS, SHARD = 6_000, 300


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster of processes of this machine: a head, and two nodes of one CPU."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield made
    finally:
        made.shutdown()


def replicas() -> Iterator[psutil.Process]:
    """The processes of the model's actors."""
    for process in psutil.Process().children(recursive=True):
        try:
            if "ray::" in "".join(process.cmdline()) and "Replica" in "".join(process.cmdline()):
                yield process
        except psutil.Error:
            continue


def test_a_killed_replica_and_a_killed_node_lose_and_double_nothing(
    cluster: Any, tmp_path: Path
) -> None:
    data = tmp_path / "texts.txt"
    data.write_text("".join(f"text number {i}\n" for i in range(9)))
    folder = tmp_path / "artifact"
    model = write_checkpoint(tmp_path / "checkpoint", "sequence-classification")
    assert build(BuildConfig(model=model, output=folder, data=data, targets=("onnx",))).passed
    source, output = write_numbered(tmp_path / "in.jsonl", ROWS), tmp_path / "out"
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    arguments = ["--shard-rows", SHARD, "--ray", cluster.address, "--replicas", 2]
    run = start_run(folder, source, "--output", output, *arguments)
    try:
        wait_for_shards(output, 2, run)
        found = list(replicas())
        assert len(found) == 2
        os.kill(found[0].pid, signal.SIGKILL)
        wait_for_shards(output, 5, run)
        cluster.remove_node(nodes[1], allow_graceful=False)
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


def test_a_replica_computes_with_its_share_of_the_processors() -> None:
    from exporter.scoring.ray_replicas import _shares

    config = ScoreConfig(Path("artifact"), (Path("texts"),), Path("out"), ray="local")
    share, replicas, options = _shares(config, {"CPU": 2.0}, shards=9)
    assert (share, replicas, options.threads) == ({"num_cpus": 1}, 2, 1)
    share, replicas, options = _shares(
        replace(config, options=RuntimeOptions(threads=3)), {"CPU": 8.0}, shards=9
    )
    assert (share, replicas, options.threads) == ({"num_cpus": 3}, 2, 3)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "no cluster to reach there (Connection refused); give HOST:PORT, auto or"),
        ("nowhere", "--ray nowhere: no cluster to reach there"),
    ],
)
def test_a_cluster_that_is_not_there(address: str, message: str, tmp_path: Path) -> None:
    from exporter.scoring.ray_replicas import _check_reachable

    with pytest.raises(InputError) as found:
        _check_reachable(address)
    assert message in str(found.value)
