"""A run from top to bottom: plan, what is there already, this process or Ray, the totals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from calibration.json_values import to_json_values
from exporter.artifact.files import record
from exporter.artifact.manifest import MANIFEST, Manifest, read_manifest
from exporter.environment import tool_name
from exporter.predictions.written import KINDS
from exporter.progress import Progress
from exporter.runtime.load import artifact_shape, load
from exporter.scoring.score_config import ScoreConfig
from exporter.scoring.score_folder import ScoreFolder
from exporter.scoring.score_shard import ShardRecord, score_shard
from exporter.scoring.shards import Shard, Work, input_forms, output_form, plan_shards

_UNSTEADY_SECONDS = 3.0
"""In these, the first batches say nothing of how fast the rest will be."""


@dataclass(frozen=True)
class ScoreResult:
    """What is in the output of a run: files, rows, rows without an answer; and what it took.

    `scored` are the rows of this run alone, without those that were there, in `seconds` from when
    the model was open, or from the start of Ray.
    """

    shards: int
    rows: int
    failed: int
    scored: int
    seconds: float


def score(config: ScoreConfig, progress: Progress) -> ScoreResult:
    """Answer the rows of files, in shards: see `ScoreConfig`.

    Raises:
        InputError: the artifact, an input or the output cannot be used.
        MissingDependencyError: a package that a format, a provider or Ray needs is missing.
    """
    manifest = read_manifest(config.artifact)
    kind = KINDS[artifact_shape(config.artifact, manifest).task]
    progress("counting rows")
    forms = input_forms(config)
    shards = plan_shards(config, forms, kind)
    work = Work(
        config.artifact.absolute(),
        config.provider,
        config.output.absolute(),
        output_form(config, forms),
        config.columns,
        config.prefix,
        config.predictions,
        config.entities,
    )
    run = _described(config, work, manifest)
    with ScoreFolder(work.output, run, resume=config.resume) as folder:
        there = folder.written() if config.resume else {}
        left = [shard for shard in shards if shard.index not in there]
        meter = Meter(
            sum(shard.section.rows for shard in shards),
            sum(record.rows for record in there.values()),
            progress,
        )
        for written in _records(left, work, config, meter):
            folder.add(written)
        return ScoreResult(**folder.finish(), scored=meter.done, seconds=meter.seconds)


class Meter:
    """How far a run is: rows, rows per second, time left."""

    def __init__(self, total: int, there: int, progress: Progress) -> None:
        self._total, self._there, self._progress = total, there, progress
        self._start, self.done = monotonic(), 0

    @property
    def seconds(self) -> float:
        """Since it began."""
        return monotonic() - self._start

    def begin(self) -> None:
        """The model is open: count from now."""
        self._start = monotonic()

    def tell(self, rows: int) -> None:
        """So many rows more are done."""
        self.done += rows
        if self.seconds < _UNSTEADY_SECONDS:
            self._progress(f"{self._there + self.done} of {self._total} rows")
            return
        speed = self.done / max(self.seconds, 1e-9)
        left = (self._total - self._there - self.done) / max(speed, 1e-9)
        self._progress(
            f"{self._there + self.done} of {self._total} rows, {speed:.0f} rows/s, "
            f"{int(left // 3600)}:{int(left % 3600 // 60):02}:{int(left % 60):02} left"
        )


def _records(
    left: Sequence[Shard], work: Work, config: ScoreConfig, meter: Meter
) -> Iterator[ShardRecord]:
    """The shards as they are written, in any order."""
    if not left:
        return
    if config.ray is not None:
        from exporter.scoring.ray_replicas import score_on_ray

        for written in score_on_ray(left, work, config):
            meter.tell(written.rows)
            yield written
        return
    with load(work.artifact, work.provider, options=config.options) as session:
        meter.begin()
        for shard in left:
            yield score_shard(session, shard, work, meter.tell)


def _described(config: ScoreConfig, work: Work, manifest: Manifest) -> dict[str, Any]:
    """What a run is about: what must be the same where one goes on."""
    artifact = record(config.artifact / MANIFEST).sha256
    return {
        "tool": tool_name(),
        "artifact": {"manifest_sha256": artifact, "precision": manifest.precision},
        "inputs": [_input(path) for path in config.inputs],
        "shard_rows": config.shard_rows,
        "format_of_shards": work.form,
        "provider": work.provider,
        "columns": to_json_values(config.columns),
        "prefix": config.prefix,
        "entities": config.entities and list(config.entities),
        "options": to_json_values(config.predictions),
    }


def _input(path: Path) -> dict[str, Any]:
    found = path.stat()
    return {
        "path": str(path.absolute()), "bytes": found.st_size, "modified_ns": found.st_mtime_ns
    }  # fmt: skip
