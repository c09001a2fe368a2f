"""The sides of a comparison: a checkpoint, an artifact, an ONNX file, an engine, saved outputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.artifact.engine_record import EngineOptions, EngineRecord
from exporter.artifact.files import FileRecord, record, verify_files
from exporter.artifact.manifest import MANIFEST, MODEL_FILE, Manifest, read_manifest
from exporter.artifact.onnx_file import (
    CONFIG_KEY,
    PLAN_KEY,
    PRECISION_KEY,
    TASK_KEY,
    external_files,
    open_onnx,
)
from exporter.deberta.configuration import DebertaConfig
from exporter.deberta.gliner_configuration import read_config
from exporter.engine.plan_file import PlanHeader, read_header
from exporter.errors import InputError
from exporter.model.model_shape import ModelShape
from exporter.model.task import ARCHITECTURES, Task
from exporter.parity.limits import PRECISIONS, widest
from exporter.parity.result import SideInfo
from exporter.parity.runners import (
    EngineRunner,
    GraphRunner,
    Layers,
    Runner,
    SavedRunner,
    TorchRunner,
)
from exporter.parity.side import Open, Side, vocabulary_files
from exporter.precision.precision_plan import PrecisionPlan, decode_plan
from exporter.runtime.load import artifact_shape, require_torch, source_base, source_folder
from exporter.runtime.runtime_options import BODY, DEFAULTS, RuntimeOptions

if TYPE_CHECKING:
    import onnx

ENGINE_LAYERS = "a TensorRT engine gives its outputs only"
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger")


def open_side(
    path: Path,
    task: Task | None = None,
    options: RuntimeOptions = BODY,
    *,
    base: Path | None = None,
) -> Side:
    """What is at `path`: a checkpoint or artifact folder, an .onnx file, a .plan engine, or a .json
    of outputs that Polygraphy saved. The head of a checkpoint is as its configuration says unless
    `task` does, and `base` is an adapter's; a graph's attention is computed as the `options` say,
    which its body is by default.

    Raises:
        InputError: nothing is there, or nothing that can be compared.
    """
    if path.is_dir():
        found = (path / MANIFEST).is_file()
        return artifact_side(path, options) if found else checkpoint_side(path, task, base)
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder")
    if path.name == MODEL_FILE and (path.parent / MANIFEST).is_file():
        return replace(artifact_side(path.parent, options), engines=())
    openers: dict[str, Callable[[Path], Side]] = {
        ".onnx": partial(onnx_side, options=options),
        ".plan": engine_side,
        ".json": _saved_side,
    }
    if path.suffix.lower() not in openers:
        raise InputError(
            f"{path}: give a checkpoint or artifact folder, an .onnx file, a .plan engine, or a "
            ".json of outputs that polygraphy run saved"
        )
    return openers[path.suffix.lower()](path)


def checkpoint_side(folder: Path, task: Task | None = None, base: Path | None = None) -> Side:
    """A checkpoint folder, run by our PyTorch model in fp32; `base` is that of an adapter.

    Raises:
        InputError: it is unusable.
        MissingDependencyError: PyTorch is not installed.
    """
    require_torch()
    from exporter.deberta.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(folder, task, base=base)
    folder, base = checkpoint.folder, None if base is None else checkpoint.base
    files = (*checkpoint.files, *vocabulary_files(folder).values())
    records = tuple(record(path) for path in files)
    return reference_side(folder, checkpoint.shape, records, base)


def reference_side(
    folder: Path, shape: ModelShape, files: tuple[FileRecord, ...], base: Path | None = None
) -> Side:
    """A checkpoint that has been opened already; `files` are its own with their hashes."""
    info = SideInfo(str(folder), "checkpoint", "fp32", "torch fp32", files)
    opens: tuple[Open, ...] = (partial(TorchRunner, folder, base=base),)
    texts = _tokenizer_folder(folder) or (None if base is None else _tokenizer_folder(base))
    return Side(info, shape, texts, shape.longest, opens, checkpoint=True, base=base)


def source_side(
    manifest: Manifest, checkpoint: Path | None = None, base: Path | None = None
) -> Side:
    """The checkpoint that an artifact was built from, where its manifest says or at `checkpoint`;
    that of an adapter lies at `base` where it is not in its folder.

    Raises:
        InputError: it is gone, or is another one.
    """
    folder = checkpoint or source_folder(manifest)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name the source checkpoint with --checkpoint")
    if base is not None and source_base(manifest) is None:
        raise InputError(f"{base}: the artifact was not built from an adapter; leave out --base")
    base = base or source_base(manifest)
    if base is not None and not base.is_dir():
        raise InputError(f"{base}: no such folder; name the adapter's base model with --base")
    near = [item for item in manifest.source.files if not base or (folder / item.path).exists()]
    far = [item for item in manifest.source.files if item not in near]
    changed = verify_files(folder, near) + (verify_files(base, far) if base else ())
    if changed:
        first = f"{changed[0].path} {changed[0].problem}"
        raise InputError(f"{folder}: not the checkpoint that the artifact was built from: {first}")
    return checkpoint_side(folder, Task(manifest.task), base)


def artifact_side(folder: Path, options: RuntimeOptions = BODY) -> Side:
    """The graph of an artifact, and its engines. A changed file is a problem, and all run even so.

    Raises:
        InputError: no artifact there, or the manifest is malformed.
    """
    manifest = read_manifest(folder)
    problems = _problems(folder, manifest.files)
    try:
        shape = artifact_shape(folder, manifest)
    except InputError:
        if not problems:
            raise
        shape = None  # the file that tells is one of those that changed: the other side knows
    return Side(
        info=SideInfo(str(folder), "artifact", manifest.precision, "", manifest.files),
        shape=shape,
        folder=_tokenizer_folder(folder),
        longest=manifest.seq.max,
        opens=graph_opens(folder / MODEL_FILE, manifest.half, options),
        problems=problems,
        graph=None if problems else planned_graph(folder / MODEL_FILE),
        engines=engine_sides(folder, manifest.engines, manifest.precision),
    )


def _problems(folder: Path, files: tuple[FileRecord, ...]) -> tuple[str, ...]:
    return tuple(f"{item.path} {item.problem}" for item in verify_files(folder, files))


def _tokenizer_folder(folder: Path) -> Path | None:
    return folder if vocabulary_files(folder) else None


def graph_opens(
    path: Path, half: str | None, options: RuntimeOptions = DEFAULTS
) -> tuple[Open, ...]:
    """What runs a graph of ours.

    A graph in fp16 or bf16 is judged with the rounding of that type in every value. ONNX Runtime's
    CPU provider runs fp16 as it is, in fp32 arithmetic: that is what such a user gets, so it must
    hold the limits as well. It cannot run bf16. `half` is None for a graph without such values.
    """

    def runner(rounded: bool, shape: ModelShape) -> Runner:
        return GraphRunner(path, shape, rounded=rounded, options=options)

    as_it_is, rounded = partial(runner, False), partial(runner, True)
    if half is None:
        return (as_it_is,)
    return (rounded,) if half == "bf16" else (rounded, as_it_is)


def onnx_side(path: Path, options: RuntimeOptions = BODY) -> Side:
    """An ONNX file of any exporter; what it says of itself, or `config.json` beside it, counts.

    No weight is read.

    Raises:
        InputError: not an ONNX file, or not one of such a model.
    """
    model, beside = open_onnx(path), path.parent
    metadata = {item.key: item.value for item in model.metadata_props}
    external = [beside / name for name in external_files(model)]
    missing = [file for file in external if not file.is_file()]
    if missing:
        raise InputError(f"{missing[0]}: missing; {path.name} has its weights there")
    precision = _precision(model, metadata)
    producer = f"{model.producer_name} {model.producer_version}".strip() or "an unknown exporter"
    files = tuple(record(file) for file in (path, *external))
    # Another exporter's fp16 graph is run as it is: where its casts belong is its own affair.
    half = precision if CONFIG_KEY in metadata and precision in ("fp16", "bf16") else None
    return Side(
        info=SideInfo(str(path), "onnx", precision, "", files, (f"made by {producer}",)),
        shape=_shape(metadata) or _shape_beside(beside),
        folder=_tokenizer_folder(beside),
        longest=_fixed_length(model),
        opens=graph_opens(path, half, options),
        graph=planned_graph(path, model),
    )


def planned_graph(
    path: Path, model: onnx.ModelProto | None = None
) -> tuple[Path, PrecisionPlan] | None:
    """A graph of ours with its plan, which is empty in fp32; None where there is none. `model` is
    what is in the file, where that has been read.

    Raises:
        InputError: not an ONNX file, or its plan is malformed.
    """
    metadata = {item.key: item.value for item in (model or open_onnx(path)).metadata_props}
    if PLAN_KEY in metadata:
        return path, decode_plan(metadata[PLAN_KEY], str(path))
    exact = CONFIG_KEY in metadata and metadata.get(PRECISION_KEY, "fp32") == "fp32"
    return (path, PrecisionPlan()) if exact else None


def _shape(metadata: Mapping[str, str]) -> ModelShape | None:
    """The model as the file itself says."""
    try:
        raw = json.loads(metadata[CONFIG_KEY])
        config = DebertaConfig.from_dict({"model_type": "deberta-v2", **raw})
        return config.shape(Task(metadata[TASK_KEY]))
    except (KeyError, ValueError, TypeError, InputError):
        return None


def _shape_beside(folder: Path) -> ModelShape | None:
    """The model as `config.json` says, if there is one."""
    if not (folder / "config.json").is_file():
        return None
    config = read_config(folder)
    known = [ARCHITECTURES[name] for name in config.architectures if name in ARCHITECTURES]
    return config.shape(known[0]) if known else None


def _fixed_length(model: onnx.ModelProto) -> int | None:
    """The length in tokens that a graph is fixed to, None where it is dynamic."""
    for item in model.graph.input:
        if item.name == "input_ids" and item.type.tensor_type.shape.dim:
            return item.type.tensor_type.shape.dim[-1].dim_value or None
    return None


def _precision(model: onnx.ModelProto, metadata: Mapping[str, str]) -> str:
    """As the file says, or else as its operators and weights show."""
    from onnx import TensorProto

    if metadata.get(PRECISION_KEY) in PRECISIONS:
        return metadata[PRECISION_KEY]
    types = {TensorProto.DataType.Name(item.data_type) for item in model.graph.initializer}
    if any(name.startswith(("FLOAT8E4", "FLOAT8E5")) for name in types):
        return "fp8"
    bodies = (model.graph.node, *(function.node for function in model.functions))
    if any(node.op_type in _QUANTIZED for nodes in bodies for node in nodes):
        return "int8"
    if "BFLOAT16" in types:
        return "bf16"
    return "fp16" if "FLOAT16" in types else "fp32"


def engine_side(path: Path) -> Side:
    """The engine at `path`: of an artifact where the manifest beside it names it, else a bare one.

    A bare plan may be anyone's, built from a graph with the inputs and outputs of the other side.
    What limits it is held to, `--precision` says; fp16's are the default. CI has no GPU and runs
    this against a stand-in for the session; see `exporter.runtime.providers.tensorrt_session`.

    Raises:
        InputError: not an engine, or one that is cut short.
    """
    header = read_header(path)
    folder = path.parent
    manifest = read_manifest(folder) if (folder / MANIFEST).is_file() else None
    engines = () if manifest is None else manifest.engines
    engine = next((item for item in engines if item.file == path.name), None)
    if manifest is None or engine is None:
        note = "no manifest names it: held to the limits of fp16 unless --precision says otherwise"
        info = SideInfo(str(path), "engine", "fp16", header.target, (record(path),), (note,))
        return Side(info, None, None, None, _engine_opens(path, _bare_record(path, header)))
    mine = tuple(item for item in manifest.files if item.path == path.name)
    (side,) = engine_sides(folder, (engine,), manifest.precision)
    return replace(
        side,
        info=replace(side.info, name=str(path), files=mine),
        shape=artifact_shape(folder, manifest),
        longest=manifest.seq.max,
        problems=_problems(folder, mine),
    )


def engine_sides(folder: Path, engines: Sequence[EngineRecord], precision: str) -> tuple[Side, ...]:
    """The engines of an artifact, whose files are verified with it; none is opened.

    `precision` is that of its graph. With TF32 an engine rounds factors to fp16's number of bits.
    """
    sides = []
    for engine in engines:
        rounded = widest([precision, "fp16"]) if engine.options.tf32 else precision
        info = SideInfo(engine.file, "engine", rounded, engine.target)
        opens = _engine_opens(folder / engine.file, engine)
        sides.append(Side(info, None, folder, None, opens, profiles=engine.profiles))
    return tuple(sides)


def _bare_record(path: Path, header: PlanHeader) -> EngineRecord:
    return EngineRecord(
        target=header.target,
        file=path.name,
        layers="",
        version=header.version,
        profiles=(),
        options=EngineOptions(),
        bytes=header.bytes,
        activation_bytes=None,
        weight_bytes=None,
        attention="unknown",
        kernels={},
        dtypes={},
        seconds=0.0,
        host_peak_bytes=0,
    )


def _engine_opens(path: Path, engine: EngineRecord) -> tuple[Open, ...]:
    def runner(shape: ModelShape) -> Runner:
        from exporter.runtime.providers.tensorrt_session import TensorRtSession

        session = TensorRtSession(path, engine, shape)
        return EngineRunner(path, session, Layers(reason=ENGINE_LAYERS))

    return (runner,)


def _saved_side(path: Path) -> Side:
    info = SideInfo(str(path), "saved outputs", "fp32", files=(record(path),))
    return Side(info, None, None, None, (partial(SavedRunner, path),), saved=True)
