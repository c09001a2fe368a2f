"""Shards on Ray Data: replicas of a model, each an actor with its share of processors or GPUs.

A shard is one row of the data set. The actor that has it writes its file, so a shard whose actor or
machine dies is one that Ray gives to another actor, which writes the same file.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from calibration.json_values import from_json_values, to_json_values
from exporter.errors import DebExportError, InputError, MissingDependencyError
from exporter.runtime.load import load
from exporter.runtime.runtime_options import RuntimeOptions
from exporter.runtime.session import Session
from exporter.scoring.score_config import ScoreConfig
from exporter.scoring.score_shard import ShardRecord, score_shard
from exporter.scoring.shards import Shard, Work

INSTALL = 'pip install "deb-export[ray]"'
_PATIENCE_SECONDS = 10
ON_PROCESSORS = ("cpu", "openvino", "torch")


class Replica:
    """An actor: the model, opened when the first shard comes."""

    def __init__(self, work: Work, options: RuntimeOptions) -> None:
        self._work, self._options = work, options
        self._session: Session | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The record of each shard of a batch, or what is wrong, as JSON."""
        return {"answer": [self._answer(text) for text in batch["shard"]]}

    def _answer(self, text: str) -> str:
        shard = from_json_values(json.loads(text), Shard)
        try:
            if self._session is None:
                work = self._work
                self._session = load(work.artifact, work.provider, options=self._options)
            written = score_shard(self._session, shard, self._work, lambda rows: None)
        except DebExportError as error:
            return json.dumps({"problem": str(error), "exit_code": error.exit_code})
        return json.dumps(to_json_values(written))


def score_on_ray(shards: Sequence[Shard], work: Work, config: ScoreConfig) -> Iterator[ShardRecord]:
    """The shards as replicas have written them, in the order in which they are ready.

    Raises:
        InputError: the cluster cannot be reached or has not what a replica needs; or as
            `score_shard`.
        MissingDependencyError: Ray is not installed, or what the provider needs on a machine.
    """
    with _cluster(config.ray or "local") as ray:
        share, replicas, options = _shares(config, ray.cluster_resources(), len(shards))
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        rows = [{"shard": json.dumps(to_json_values(shard))} for shard in shards]
        answers = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            Replica,
            fn_constructor_args=(work, options),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=replicas),
            **share,
        )
        for answer in answers.iter_rows():
            found = json.loads(answer["answer"])
            if "problem" in found:
                kind = MissingDependencyError if found["exit_code"] == 3 else InputError
                raise kind(found["problem"])
            yield from_json_values(found, ShardRecord)


def _shares(
    config: ScoreConfig, has: dict[str, float], shards: int
) -> tuple[dict[str, float], int, RuntimeOptions]:
    """What each replica is given, how many there are, and how each runs."""
    processors, gpus = int(has.get("CPU", 0)), int(has.get("GPU", 0))
    if config.provider not in ON_PROCESSORS:
        if not gpus:
            raise InputError(f"provider {config.provider!r}: the Ray cluster has no GPU")
        return {"num_gpus": 1}, min(config.replicas or gpus, shards), config.options
    threads = config.options.threads or 1
    room = processors // threads
    if (config.replicas or 1) > room:
        wanted = f"{config.replicas or 1} x {threads}"
        raise InputError(f"the Ray cluster has {processors} CPUs, not {wanted}; ask for fewer")
    options = config.options
    if config.provider != "torch":  # which takes the number from its actor's environment
        options = replace(options, threads=threads)
    return {"num_cpus": threads}, min(config.replicas or room, shards), options


def _check_reachable(address: str) -> None:
    """Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE_SECONDS).close()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        text = f"no cluster to reach there ({reason or error}); give HOST:PORT, auto or local"
        raise InputError(f"--ray {address}: {text}") from None


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster, or to one of this machine that ends with the run."""
    # Nothing is reported to anybody, and Ray's own log is in its files.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingDependencyError(f"--ray: Ray is not installed; {INSTALL}") from None
    if address not in ("local", "auto"):
        _check_reachable(address)
    local = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address, log_to_driver=False, logging_level="error", **local)
    except (ConnectionError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"--ray {address}: no cluster to reach there ({first})") from None
    try:
        yield ray
    finally:
        ray.shutdown()
