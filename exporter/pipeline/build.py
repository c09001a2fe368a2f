"""A build from top to bottom: checkpoint, graph, parity, manifest."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from calibration.texts import TextItem
from exporter.artifact.files import FileRecord, record
from exporter.artifact.manifest import MODEL_FILE, Manifest, ParitySummary, Source, half_type
from exporter.artifact.writer import ArtifactWriter
from exporter.deberta.configuration import DebertaConfig
from exporter.deberta.tokenization import tokenizer_files
from exporter.engine.targets import BuiltTargets, build_targets, plan_targets
from exporter.environment import environment, tool_name
from exporter.errors import InputError, MissingDependencyError
from exporter.inputs.cases import DataSet
from exporter.inputs.data_sets import DEFAULT_TEXTS, DataOptions, make_data_sets
from exporter.inputs.encode import TextEncoder
from exporter.inputs.text_files import calibration_texts
from exporter.model.model_shape import ModelShape
from exporter.model.profile import Range, ShapeProfile, profiles_for
from exporter.parity.check import check_sides
from exporter.parity.limits import limits_for
from exporter.parity.report.json import limits_json, to_json
from exporter.parity.result import ParityResult, SideInfo
from exporter.parity.side import Side
from exporter.parity.sides import graph_opens, reference_side
from exporter.parity.store import ReferenceStore
from exporter.pipeline.config import BuildConfig
from exporter.pipeline.convert import Converted, range_cases, to_half
from exporter.pipeline.quantize import (
    Places,
    QuantizationInput,
    model_hash,
    quantization_input,
    to_quantized,
)
from exporter.precision.quantized.report import TABLE_FILE
from exporter.progress import Progress, silent
from exporter.runtime.load import text_encoder

if TYPE_CHECKING:
    from exporter.deberta.checkpoint import Checkpoint
    from exporter.graph.export import GraphSummary

PARITY_FILE = "parity.json"
_USUAL_LENGTH = 128


@dataclass(frozen=True)
class _Source:
    """What a build reads, opened and checked."""

    folder: Path
    demo: bool
    checkpoint: Checkpoint
    shape: ModelShape
    seq: Range
    encoder: TextEncoder | None
    tokenizer_files: tuple[Path, ...]
    data_sets: tuple[DataSet, ...]
    calibration: tuple[TextItem, ...]
    quantization: QuantizationInput | None


def build(config: BuildConfig, progress: Progress = silent) -> Manifest:
    """Build an artifact folder.

    Args:
        config: what to build.
        progress: told what is going on, in a few words.

    Returns:
        The manifest, also when parity fails: then `manifest.passed` is false, and the folder is
        kept to be examined, its report in parity.json.

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
    _require_packages()
    plan = plan_targets(config.targets, config.engine)
    seconds: dict[str, float] = {}
    with ArtifactWriter(config.output_folder, force=config.force) as writer:
        start = perf_counter()
        progress("reading the checkpoint")
        source = _open_source(config)
        profiles: tuple[ShapeProfile, ...] = ()
        if plan.backends:
            profiles = profiles_for(config.profiles, config.batch, source.seq, source.shape)
        files = tuple(record(path) for path in _source_files(source))
        seconds["read"] = perf_counter() - start

        start = perf_counter()
        graph = writer.folder / MODEL_FILE
        exact = graph if config.precision == "fp32" else _work_folder(writer) / MODEL_FILE
        summary = _export(source, files, exact, config, progress)
        for path in (source.folder / "config.json", *source.tokenizer_files):
            writer.copy(path)
        seconds["export"] = perf_counter() - start

        converted = Converted(summary, {})
        if exact != graph:
            start = perf_counter()
            converted = _convert(config, source, files, exact, graph, summary, progress)
            shutil.rmtree(exact.parent)
            seconds["precision"] = perf_counter() - start

        start = perf_counter()
        result = _judge(config, source, files, graph, converted, progress)
        writer.write_json(PARITY_FILE, to_json(result))
        seconds["parity"] = perf_counter() - start

        start = perf_counter()
        built = build_targets(plan, config.engine, graph, source.shape.inputs, profiles, progress)
        seconds["engines"] = perf_counter() - start

        progress("writing the manifest")
        manifest = _manifest(config, source, files, converted, result, built, seconds)
        manifest = replace(manifest, files=writer.records())
        writer.finish(manifest)
    return manifest, result


def _require_packages() -> None:
    """Say what is missing before any work is done."""
    missing = [name for name in ("torch", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f'{" and ".join(missing)} not installed; pip install "deb-export[cpu]"'
        )


def _open_source(config: BuildConfig) -> _Source:
    """Open the checkpoint, its tokenizer and the texts, and check that they fit together."""
    from exporter.deberta.checkpoint import open_checkpoint

    folder = (config.model or _demo_folder()).absolute()
    checkpoint = open_checkpoint(folder, config.task)
    model = checkpoint.config
    if model.unknown:
        fields = ", ".join(sorted(model.unknown))
        warnings.warn(
            f"{folder}: config.json has fields that nothing reads: {fields}", stacklevel=2
        )
    seq = _lengths(config, model)
    encoder = text_encoder(folder, checkpoint.task, seq.max)
    if encoder is None:
        warnings.warn(
            f"{folder}: no tokenizer, so the artifact takes token ids and no texts", stacklevel=2
        )
    files = () if config.data is None else (config.data,)
    data_sets = make_data_sets(checkpoint.shape, encoder, DataOptions(files), seq.max)
    quantization = None
    if config.quantized:
        quantization = quantization_input(
            config.precision,
            config.quantization,
            config.calibration_data,
            checkpoint.shape,
            encoder,
        )
        calibration = quantization.texts
    else:
        calibration = calibration_texts(config.calibration_data, checkpoint.shape)
        if config.calibration_data is None:  # those first that the parity check does not use
            calibration = (*calibration[DEFAULT_TEXTS:], *calibration[:DEFAULT_TEXTS])
    return _Source(
        folder=folder,
        demo=config.model is None,
        checkpoint=checkpoint,
        shape=checkpoint.shape,
        seq=seq,
        encoder=encoder,
        tokenizer_files=() if encoder is None else tokenizer_files(folder),
        data_sets=data_sets,
        calibration=calibration,
        quantization=quantization,
    )


def _demo_folder() -> Path:
    from exporter.demo import checkpoint_folder

    return checkpoint_folder()


def _lengths(config: BuildConfig, model: DebertaConfig) -> Range:
    """The lengths asked for, or 1 up to what the model was trained for.

    Raises:
        InputError: a longest length that the model has no positions for.
    """
    longest = model.max_position_embeddings
    if config.seq is None:
        return Range(1, min(_USUAL_LENGTH, longest), longest)
    if model.position_biased_input and config.seq.max > longest:
        raise InputError(
            f"--seq {config.seq}: the model has positions for {longest} tokens "
            "(max_position_embeddings); choose a smaller maximum"
        )
    return config.seq


def _source_files(source: _Source) -> tuple[Path, ...]:
    return (*source.checkpoint.files, *source.tokenizer_files)


def _export(
    source: _Source,
    files: tuple[FileRecord, ...],
    path: Path,
    config: BuildConfig,
    say: Progress,
) -> GraphSummary:
    """Write the graph, with the hash of the vocabulary that its ids belong to."""
    from exporter.graph.attention_body import SKEW_UP_TO
    from exporter.graph.export import export_onnx

    hashes = {item.path: item.sha256 for item in files}
    metadata = {}
    short = source.seq.max <= SKEW_UP_TO
    if source.encoder is not None:
        vocabulary = source.encoder.tokenizer.source_files[0].name
        metadata["deb_export.vocabulary_sha256"] = hashes[vocabulary]
    return export_onnx(
        source.checkpoint,
        path,
        # A graph on the way is read again: a runtime maps its weights from a file of their own.
        external_data=config.external_data if config.precision == "fp32" else True,
        metadata=metadata,
        # Measured on CPUs alone: what may become an engine keeps the form known from engines.
        reading="skew" if short and config.targets == ("onnx",) else "gather",
        progress=lambda message: say(f"graph: {message}"),
    )


def _work_folder(writer: ArtifactWriter) -> Path:
    """A folder for what is needed on the way; it goes with the unfinished artifact."""
    folder = writer.folder / "work"
    folder.mkdir()
    return folder


def _convert(
    config: BuildConfig,
    source: _Source,
    files: tuple[FileRecord, ...],
    exact: Path,
    graph: Path,
    summary: GraphSummary,
    say: Progress,
) -> Converted:
    """The fp32 graph `exact` in the precision asked for."""
    if source.quantization is None:
        return _halve(config, source, exact, graph, config.precision, summary, say)
    rest = config.quantization.rest
    whole = graph if rest == "fp32" else exact.with_name("quantized.onnx")
    quantized = to_quantized(
        Places(exact, whole, graph.with_name(TABLE_FILE), config.output_folder),
        source.shape,
        source.quantization,
        model=model_hash(source.shape.task.value, files),
        summary=summary,
        external_data=config.external_data if whole == graph else True,
        say=say,
    )
    if whole == graph:
        return quantized
    halved = _halve(config, source, whole, graph, rest, quantized.summary, say)
    return replace(halved, facts={**quantized.facts, **halved.facts}, problems=quantized.problems)


def _halve(
    config: BuildConfig,
    source: _Source,
    exact: Path,
    graph: Path,
    half: str,
    summary: GraphSummary,
    say: Progress,
) -> Converted:
    cases = range_cases(source.shape, source.encoder, source.calibration, source.seq.max)
    return to_half(
        exact, graph, half, cases, summary, config.external_data, say, label=config.precision
    )


def _judge(
    config: BuildConfig,
    source: _Source,
    files: tuple[FileRecord, ...],
    path: Path,
    converted: Converted,
    say: Progress,
) -> ParityResult:
    """Compare the graph with the reference."""
    info = SideInfo(str(config.output_folder), "artifact", config.precision)
    half = half_type(converted.facts)
    graph = Side(info, source.shape, None, source.seq.max, graph_opens(path, half))
    # Beside the unfinished artifact, with which it goes: a temporary folder may be small.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        return check_sides(
            reference_side(source.folder, source.shape, files),
            graph,
            source.shape,
            source.data_sets,
            limits_for(config.precision),
            say,
            store=ReferenceStore(Path(folder)),
            problems=converted.problems,
        )


def _manifest(
    config: BuildConfig,
    source: _Source,
    files: tuple[FileRecord, ...],
    converted: Converted,
    result: ParityResult,
    built: BuiltTargets,
    seconds: dict[str, float],
) -> Manifest:
    model = source.checkpoint.config
    graph = {key: value for key, value in asdict(converted.summary).items() if key != "files"}
    graph.update(converted.facts)
    return Manifest(
        tool=tool_name(),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        source=Source(str(source.folder), source.demo, files),
        precision=config.precision,
        targets=built.targets,
        task=source.shape.task.value,
        inputs=source.shape.inputs,
        outputs=source.shape.outputs,
        batch=config.batch,
        seq=source.seq,
        labels=dict(model.id2label),
        model={key: value for key, value in model.to_dict().items() if key != "id2label"},
        graph=graph,
        environment=environment(),
        parity=ParitySummary(bool(result), PARITY_FILE, result.failures),
        limits=tuple(limits_json(result.limits)["metrics"]),
        seconds={name: round(value, 3) for name, value in seconds.items()},
        engines=built.engines,
        skipped=built.skipped,
    )
