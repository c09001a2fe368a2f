"""Engines for a finished artifact: no checkpoint, no PyTorch, no calibration."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

from exporter.artifact.engine_record import EngineOptions, EngineRecord
from exporter.artifact.files import usable_path, verify_files
from exporter.artifact.manifest import MODEL_FILE, Manifest, ParitySummary, read_manifest
from exporter.artifact.writer import ArtifactWriter
from exporter.deberta.configuration import read_object
from exporter.engine.targets import build_targets, plan_targets
from exporter.errors import InputError, MissingDependencyError
from exporter.model.model_shape import ModelShape
from exporter.model.profile import ShapeProfile, profiles_for
from exporter.parity.check import check_sides
from exporter.parity.limits import limits_for
from exporter.parity.recorded import RECORD_FILE, read_record
from exporter.parity.report.json import engine_json
from exporter.parity.result import ParityResult, SideInfo
from exporter.parity.side import Side
from exporter.parity.sides import engine_sides, graph_opens
from exporter.parity.store import ReferenceStore
from exporter.progress import Progress, silent
from exporter.runtime.load import artifact_shape

ENGINE_TARGETS = ("tensorrt", "tensorrt-rtx")


@dataclass(frozen=True)
class EngineConfig:
    """Options of `deb-export engine`.

    Attributes:
        artifact: what `deb-export build` wrote.
        targets: engines to build, each one of `ENGINE_TARGETS`.
        output: folder to write; None adds the engines to the artifact itself.
        force: replace another artifact in `output`.
        engine: how engines are built.
        profiles: shapes that they are built for; none is one profile of the artifact's own.

    Raises:
        InputError: no target, or an unknown one.
    """

    artifact: Path
    targets: tuple[str, ...]
    output: Path | None = None
    force: bool = False
    engine: EngineOptions = field(default=EngineOptions())
    profiles: tuple[ShapeProfile, ...] = ()

    def __post_init__(self) -> None:
        for path in filter(None, (self.artifact, self.output)):
            usable_path(path)
        known = ", ".join(ENGINE_TARGETS)
        if not self.targets:
            raise InputError(f"--target: give at least one of {known}")
        for target in self.targets:
            if target not in ENGINE_TARGETS:
                raise InputError(f"--target {target!r}: unknown; choose from {known}")


def build_engines(
    config: EngineConfig, progress: Progress = silent
) -> tuple[Manifest, ParityResult | None]:
    """Build engines from an artifact's graph, and judge them by its recorded reference outputs.

    The graph is judged beside them, on ONNX Runtime. What is written is there whole or not at all;
    an engine of the same target is replaced. The result is None where the artifact has no record.

    Raises:
        InputError: no artifact, a file of it has changed, or an option is unusable.
        MissingDependencyError: the builder, ONNX Runtime or a GPU is missing.
    """
    if find_spec("onnxruntime") is None:
        extras = " or ".join(f"deb-export[{name}]" for name in ("tensorrt", "rtx"))
        raise MissingDependencyError(f"onnxruntime not installed; pip install {extras}")
    artifact = config.artifact
    manifest = read_manifest(artifact)
    problems = verify_files(artifact, manifest.files)
    if problems:
        raise InputError(f"{artifact}: {problems[0].path} {problems[0].problem}; build it again")
    plan = plan_targets(config.targets, config.engine)
    shape = artifact_shape(artifact, manifest)
    profiles = profiles_for(config.profiles, manifest.batch, manifest.seq, shape)
    output, force = (artifact, True) if config.output is None else (config.output, config.force)
    with ArtifactWriter(output, force=force) as writer:
        old = [item for item in manifest.engines if item.target in config.targets]
        left_out = {name for item in old for name in (item.file, item.layers)}
        for item in manifest.files:
            if item.path not in left_out:
                _take(artifact / item.path, writer.folder / item.path, config.output is None)
        start = perf_counter()
        path = writer.folder / MODEL_FILE
        built = build_targets(plan, config.engine, path, shape.inputs, profiles, progress)
        seconds = round(perf_counter() - start, 3)
        result = _judge(writer.folder, manifest, shape, built.engines, progress)
        summary = manifest.parity
        engines = built.engines
        if result is not None:
            judged = {item.file: item.parity for item in result.engines}
            engines = tuple(replace(item, parity=judged[item.file]) for item in engines)
            summary = _reported(writer, manifest, result)
        kept = tuple(item for item in manifest.engines if item not in old)
        manifest = replace(
            manifest,
            engines=(*kept, *engines),
            targets=("onnx", *(item.target for item in (*kept, *engines))),
            skipped={k: v for k, v in manifest.skipped.items() if k not in config.targets},
            seconds={**manifest.seconds, "engines": seconds},
            parity=summary,
            files=writer.records(),
        )
        writer.finish(manifest)
    return manifest, result


def _take(source: Path, target: Path, in_place: bool) -> None:
    """The file under another name: a link where the artifact itself is replaced, else a copy.

    Two artifacts share no file: others may write into one.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if in_place:
        with suppress(OSError):  # a file system without links
            os.link(source, target)
            return
    shutil.copyfile(source, target)


def _judge(
    folder: Path,
    manifest: Manifest,
    shape: ModelShape,
    engines: Sequence[EngineRecord],
    progress: Progress,
) -> ParityResult | None:
    """The graph and the engines against the record; None where there is none."""
    if not (folder / RECORD_FILE).is_file():
        return None
    reference, sets = read_record(folder / RECORD_FILE, shape)
    graph = Side(
        info=SideInfo(str(folder), "artifact", manifest.precision),
        shape=shape,
        folder=None,
        longest=manifest.seq.max,
        opens=graph_opens(folder / MODEL_FILE, manifest.half),
        engines=engine_sides(folder, engines, manifest.precision),
    )
    limits = limits_for(manifest.precision)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        store = ReferenceStore(Path(place), "--output")
        return check_sides(
            reference, graph, shape, sets, limits, progress, store=store, layers=False
        )


def _reported(writer: ArtifactWriter, manifest: Manifest, result: ParityResult) -> ParitySummary:
    """The build's report with the engines in it, and the summary of both."""
    name = manifest.parity.report
    report: dict[str, Any] = read_object(writer.folder / name)
    files = {item.file for item in result.engines}
    kept = [item for item in report["engines"] if item["file"] not in files]
    earlier = [line for line in manifest.parity.failures if line.partition(": ")[0] not in files]
    # The graph itself may be wrong on this machine alone.
    failures = tuple(dict.fromkeys((*earlier, *result.failures)))
    report |= {"passed": not failures, "failures": failures}
    report["engines"] = [*kept, *(engine_json(item) for item in result.engines)]
    (writer.folder / name).unlink()  # it may be a link to the artifact's own
    writer.write_json(name, report)
    return ParitySummary(not failures, name, failures)
