"""A build from top to bottom: checkpoint, graph, precision, engines, parity, manifest."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, cast

from calibration.table_forms import TableForm
from exporter.artifact.engine_record import EngineRecord
from exporter.artifact.files import FileRecord, record
from exporter.artifact.manifest import MODEL_FILE, PLAIN_FILE, Manifest, ParitySummary, half_type
from exporter.artifact.writer import ArtifactWriter
from exporter.engine.targets import (
    BuiltTargets,
    build_targets,
    plan_targets,
    without_engines,
)
from exporter.environment import environment, tool_name
from exporter.errors import MissingDependencyError
from exporter.inputs.cases import DataSet
from exporter.model.profile import ShapeProfile, profiles_for
from exporter.model.task import LastLayer
from exporter.parity.check import check_sides
from exporter.parity.limits import limits_for
from exporter.parity.recorded import RECORD_FILE, Recorder
from exporter.parity.report.json import limits_json, to_json
from exporter.parity.result import EXPORT, ParityResult, SideInfo
from exporter.parity.side import Side
from exporter.parity.sides import engine_sides, graph_opens, planned_graph
from exporter.parity.store import ReferenceStore
from exporter.pipeline.config import BuildConfig
from exporter.pipeline.source import BuildSource, BuildTexts, open_source, open_texts
from exporter.precision.converted import Converted
from exporter.precision.half.range_cases import range_cases
from exporter.precision.quantized.quantization_report import TABLE_FILE
from exporter.progress import Progress, silent

if TYPE_CHECKING:
    from exporter.precision.half.types import HalfName

PARITY_FILE = "parity.json"
NO_GLINER_ENGINE = (
    "a GLiNER graph has as many scores as its ids have labels, a size that TensorRT must know "
    "before it reads them"
)


def build(config: BuildConfig, progress: Progress = silent) -> Manifest:
    """Build an artifact folder; the manifest is returned also when parity fails.

    Then `manifest.passed` is false, and the folder is kept to be examined, its report in
    parity.json.

    Raises:
        InputError: the checkpoint, the output folder or an option is unusable. Nothing is left.
        MissingDependencyError: PyTorch or ONNX Runtime is not installed, or what a target that was
            asked for by name needs.
    """
    manifest, _ = build_and_judge(config, progress)
    return manifest


def build_and_judge(
    config: BuildConfig, progress: Progress = silent
) -> tuple[Manifest, ParityResult]:
    """As `build`, with all figures of the parity check as well."""
    missing = [name for name in ("torch", "onnxruntime") if find_spec(name) is None]
    if missing:  # said before any work is done
        what = " and ".join(missing)
        raise MissingDependencyError(f'{what} not installed; pip install "deb-export[cpu]"')
    targets = plan_targets(config.targets, config.engine)
    seconds: dict[str, float] = {}

    with ArtifactWriter(config.output_folder, force=config.force) as writer:
        with _timed(seconds, "read"):
            progress("reading the checkpoint")
            source = open_source(config)
            last_layer = config.last_layer or "full"
            if source.shape.gliner is not None:
                targets = without_engines(targets, NO_GLINER_ENGINE)
            texts = open_texts(source, config)
            profiles: tuple[ShapeProfile, ...] = ()
            if targets.backends:
                profiles = profiles_for(config.profiles, config.batch, source.seq, source.shape)
            files = source.records()

        path = exact = writer.folder / MODEL_FILE
        with _timed(seconds, "export"):
            if config.precision != "fp32":
                exact = writer.folder / "work" / MODEL_FILE
                exact.parent.mkdir()
            # A graph on the way is read again: a runtime maps its weights from a file of their own.
            external_data = config.external_data if exact == path else True
            only_graph = not targets.backends
            source.write_files(writer)
            graph = _export(
                source, writer.folder, exact, external_data, only_graph, last_layer, progress
            )

        if exact != path:
            with _timed(seconds, "precision"):
                graph = _to_precision(
                    config, path, exact, graph, source, texts, files, only_graph, progress
                )

        if config.plain:
            from exporter.graph.transforms.plain_form import write_plain

            write_plain(path, writer.folder / PLAIN_FILE)

        with _timed(seconds, "engines"):
            names = source.shape.inputs
            built = build_targets(targets, config.engine, path, names, profiles, progress)

        with _timed(seconds, "parity"):
            sets, engines = texts.data_sets, built.engines
            result = _judge(config, path, exact, graph, engines, source, sets, files, progress)
            writer.write_json(PARITY_FILE, to_json(result))
            if exact != path:
                shutil.rmtree(exact.parent)

        progress("writing the manifest")
        written = writer.records()
        manifest = _manifest(config, source, files, graph, result, built, seconds, written)
        writer.finish(manifest)
    return manifest, result


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    """Keep how long a step took."""
    start = perf_counter()
    yield
    seconds[step] = perf_counter() - start


def _export(
    source: BuildSource,
    folder: Path,
    path: Path,
    external_data: bool | None,
    only_graph: bool,
    last_layer: LastLayer,
    progress: Progress,
) -> Converted:
    """Write the fp32 graph, with the hash of the vocabulary in `folder` that its ids belong to."""
    from exporter.graph.attention_body import SKEW_UP_TO
    from exporter.graph.export import export_onnx

    metadata = {}
    if source.encoder is not None:
        vocabulary = source.encoder.tokenizer.source_files[0].name
        metadata["deb_export.vocabulary_sha256"] = record(folder / vocabulary).sha256
    short = source.seq.max <= SKEW_UP_TO
    summary = export_onnx(
        source.checkpoint,
        path,
        external_data=external_data,
        metadata=metadata,
        # Measured on CPUs alone: what may become an engine keeps the form known from engines.
        reading="skew" if short and only_graph else "gather",
        last_layer=last_layer,
        progress=lambda message: progress(f"graph: {message}"),
    )
    return Converted(summary, {"last_layer": last_layer})


def _to_precision(
    config: BuildConfig,
    path: Path,
    exact: Path,
    graph: Converted,
    source: BuildSource,
    texts: BuildTexts,
    files: Sequence[FileRecord],
    only_graph: bool,
    progress: Progress,
) -> Converted:
    """The fp32 graph `exact` in the precision asked for: quantized, halved, or both in turn."""
    half = config.precision
    if texts.quantization is not None:
        from exporter.precision.quantized import to_quantized as quantized

        half = config.quantization.rest
        last = half == "fp32"
        target = path if last else exact.with_name("quantized.onnx")
        made = quantized.convert_file(
            exact,
            target,
            path.with_name(TABLE_FILE),
            source.shape,
            texts.quantization,
            model_hash=quantized.model_hash_of(
                source.shape.task.value, files, graph.facts["last_layer"]
            ),
            previous=config.output_folder,
            form=TableForm.INT8 if only_graph else TableForm.PACKED,
            judged=[case.feeds for item in texts.data_sets for case in item.cases],
            external_data=config.external_data if last else True,
            progress=progress,
        )
        graph = replace(made, facts={**graph.facts, **made.facts})
        if last:
            return graph
        exact = target
    from exporter.precision.half.to_half import convert_file

    cases = range_cases(source.shape, source.encoder, texts.calibration, source.seq.max)
    halved = convert_file(
        exact,
        path,
        cast("HalfName", half),
        [case.feeds for case in cases],
        precision=config.precision,
        external_data=config.external_data,
        progress=progress,
    )
    return replace(
        halved, facts={**graph.facts, **halved.facts}, problems=graph.problems, notes=graph.notes
    )


def _judge(
    config: BuildConfig,
    path: Path,
    exact: Path,
    graph: Converted,
    engines: Sequence[EngineRecord],
    source: BuildSource,
    data_sets: Sequence[DataSet],
    files: tuple[FileRecord, ...],
    progress: Progress,
) -> ParityResult:
    """Compare the fp32 graph `exact`, what became of it, and the engines, with the reference."""
    longest, export = source.seq.max, None
    if exact != path:
        info = SideInfo(EXPORT, "onnx", "fp32")
        export = Side(info, source.shape, None, longest, graph_opens(exact, None))
    built = Side(
        info=SideInfo(str(config.output_folder), "artifact", config.precision),
        shape=source.shape,
        folder=None,
        longest=longest,
        opens=graph_opens(path, half_type(graph.facts)),
        graph=planned_graph(path),
        export=export,
        engines=engine_sides(path.parent, engines, config.precision),
    )
    # Beside the unfinished artifact, with which it goes: a temporary folder may be small.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        recorder = Recorder()
        result = check_sides(
            source.reference(files),
            built,
            source.shape,
            data_sets,
            limits_for(config.precision),
            progress,
            store=ReferenceStore(Path(folder), "--output"),
            problems=graph.problems,
            notes=(*_whose_texts(config), *graph.notes),
            observe=recorder,
        )
    recorder.write(path.with_name(RECORD_FILE))
    return result


def _whose_texts(config: BuildConfig) -> Iterator[str]:
    """What of a user's own model rests on the demo's texts."""
    if config.model is None:
        return
    if config.precision != "fp32" and config.calibration_data is None:
        what = "scales" if config.quantized else "ranges"
        yield f"{what} are from the demo's English texts; give --calibration-data for your own"
    if config.data is None:
        yield "judged on the demo's English texts; give --data for your own"


def _manifest(
    config: BuildConfig,
    source: BuildSource,
    source_files: tuple[FileRecord, ...],
    graph: Converted,
    result: ParityResult,
    built: BuiltTargets,
    seconds: Mapping[str, float],
    files: tuple[FileRecord, ...],
) -> Manifest:
    model, shape = source.checkpoint.config, source.shape
    summary = {key: value for key, value in asdict(graph.summary).items() if key != "files"}
    judged = {item.file: item.parity for item in result.engines}
    return Manifest(
        tool=tool_name(),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        source=source.described(source_files),
        precision=config.precision,
        targets=built.targets,
        task=shape.task.value,
        inputs=shape.inputs,
        outputs=shape.outputs,
        batch=config.batch,
        seq=source.seq,
        labels=dict(model.id2label),
        model={key: value for key, value in model.to_dict().items() if key != "id2label"},
        graph={**summary, **graph.facts},
        environment=environment(),
        parity=ParitySummary(bool(result), PARITY_FILE, result.failures),
        limits=tuple(limits_json(result.limits)["metrics"]),
        seconds={name: round(value, 3) for name, value in seconds.items()},
        files=files,
        engines=tuple(replace(item, parity=judged[item.file]) for item in built.engines),
        skipped=built.skipped,
    )
