"""A model repository for Triton Inference Server from an artifact.

One model for the ONNX Runtime backend, and one for the TensorRT backend where the artifact has an
engine of TensorRT. Both take token ids. https://github.com/triton-inference-server/common has the
definition of the configuration, model_config.proto.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.artifact.engine_record import EngineRecord
from exporter.artifact.files import storage_error, sync, verify_files
from exporter.artifact.graph_description import GraphDescription, Value, describe_graph
from exporter.artifact.manifest import MODEL_FILE, Manifest
from exporter.console import one_line
from exporter.engine.backend import TENSORRT
from exporter.errors import InputError
from exporter.model.profile import CHOICES, ShapeProfile
from exporter.model.task import Task
from exporter.packaging.pbtxt import Name, write
from exporter.packaging.pbtxt import Value as Field

CONFIG = "config.pbtxt"
LABELS = "labels.txt"
DEVICES = ("auto", "cpu", "gpu")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_OTHERS = re.compile(r"[^A-Za-z0-9_.-]+")
_TYPES = {"FLOAT": "FP32", "FLOAT16": "FP16", "BFLOAT16": "BF16"}


@dataclass(frozen=True)
class TritonOptions:
    """What the server is told beside the model.

    The backend is added to `name`, None is the artifact's folder. `instances` copies of the model
    run at the same time, on each GPU where there are any; a request may wait `queue_microseconds`
    for others to share a batch with. `device`, one of `DEVICES`, is what runs the graph: "auto" is
    what the server has, or a GPU alone for a graph that not every CPU backend runs right.

    Raises:
        InputError: a value out of range; the message names the option.
    """

    name: str | None = None
    version: int = 1
    instances: int = 1
    queue_microseconds: int = 1000
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.name is not None and not _NAME.fullmatch(self.name):
            raise InputError(f"--name {self.name!r}: use letters, digits, - and _")
        if self.device not in DEVICES:
            raise InputError(f"--device {self.device!r}: choose from {', '.join(DEVICES)}")
        for option, value, least in (
            ("--version", self.version, 1),
            ("--instances", self.instances, 1),
            ("--queue-delay", self.queue_microseconds, 0),
        ):
            if value < least:
                raise InputError(f"{option} {value}: give at least {least}")


@dataclass(frozen=True)
class TritonModel:
    """A model of the repository: its name, its backend and the files of the version written."""

    name: str
    backend: str
    folder: Path
    files: tuple[str, ...]


def package_triton(
    artifact: Path,
    manifest: Manifest,
    engines: Sequence[EngineRecord],
    repository: Path,
    options: TritonOptions | None = None,
) -> tuple[TritonModel, ...]:
    """Add an artifact's models to a repository, made if missing; each is there whole or not at all.

    Of its `engines`, those of TensorRT-RTX are left out, no backend runs them.

    Raises:
        InputError: a file of the artifact has changed, the version is there already, another
            version of the model has another configuration, or the folder cannot be written.
    """
    options = options or TritonOptions()
    if manifest.task == Task.GLINER:
        raise InputError(
            f"{artifact}: the spans of a GLiNER graph follow from its words, which no "
            "configuration of a batch can say; serve it with exporter.load"
        )
    problems = verify_files(artifact, manifest.files)
    if problems:
        raise InputError(f"{artifact}: {problems[0].path} {problems[0].problem}; build it again")
    kind = _device(artifact, manifest, options.device)
    name = options.name or _OTHERS.sub("-", artifact.resolve().name).strip("-") or "deberta"
    graph = describe_graph(artifact / MODEL_FILE)
    choices = CHOICES if manifest.task == Task.MULTIPLE_CHOICE else None
    plain = ShapeProfile(manifest.batch, manifest.seq, choices)
    labels = None
    if manifest.task == Task.SEQUENCE_CLASSIFICATION:  # a row of the output is a class's score
        labels = "".join(f"{one_line(label)}\n" for _, label in sorted(manifest.labels.items()))
    folder = repository.absolute()
    model = TritonModel(
        f"{name}_onnx", "onnxruntime", folder / f"{name}_onnx", (MODEL_FILE, *graph.external_files)
    )
    planned: list[tuple[TritonModel, Sequence[ShapeProfile]]] = [(model, (plain,))]
    for engine in engines:
        if engine.target == TENSORRT.target:
            model = TritonModel(f"{name}_trt", "tensorrt", folder / f"{name}_trt", (engine.file,))
            planned.append((model, engine.profiles))
    for model, profiles in planned:
        fields = _config(model, graph, profiles, labels is not None, options)
        if model.backend == "onnxruntime":
            fields["instance_group"] = [{"count": options.instances, "kind": kind}]
            if manifest.precision == "fp8":  # optimized further, ONNX Runtime below 1.32 refuses it
                fields["optimization"] = {"graph": {"level": -1}}
        config = write(fields)
        _add(model.folder, config, [artifact / file for file in model.files], labels, options)
    return tuple(model for model, _ in planned)


def _device(artifact: Path, manifest: Manifest, asked: str) -> Name:
    """Where the server runs the graph, whose backend takes no session options but its own."""
    bits = manifest.weight_bits
    if manifest.half == "bf16" and asked == "cpu":
        raise InputError(
            f"{artifact}: ONNX Runtime has no bf16 on a CPU; leave --device cpu out, or build fp16"
        )
    if asked == "auto" and (manifest.half == "bf16" or bits == 8):
        return Name("KIND_GPU")
    return Name(f"KIND_{asked.upper()}")


def _config(
    model: TritonModel,
    graph: GraphDescription,
    profiles: Sequence[ShapeProfile],
    labelled: bool,
    options: TritonOptions,
) -> dict[str, Field]:
    """The content of config.pbtxt."""
    usual = profiles[0]
    group: dict[str, Field] = {"count": options.instances, "kind": Name("KIND_GPU")}
    if len(profiles) > 1:
        group["profile"] = [str(index) for index in range(len(profiles))]
    label_file: dict[str, Field] = {"label_filename": LABELS} if labelled else {}
    largest = max(profile.batch.max for profile in profiles)
    warmed = sorted({usual.batch.min, usual.batch.opt})
    return {
        "name": model.name,
        "backend": model.backend,
        "default_model_filename": model.files[0],
        # Requests of one length share a batch; those of other lengths wait for their own.
        "max_batch_size": largest,
        "input": [_tensor(value) for value in graph.inputs],
        "output": [{**_tensor(value), **label_file} for value in graph.outputs],
        "version_policy": {"latest": {"num_versions": 1}},
        "instance_group": [group],
        "dynamic_batching": {
            "preferred_batch_size": [*sorted({usual.batch.opt, largest} - {1})],
            "max_queue_delay_microseconds": options.queue_microseconds,
        },
        "model_warmup": [_warmup(graph, usual, size) for size in warmed],
    }


def _tensor(value: Value) -> dict[str, Field]:
    """An input or output; the first dimension is the batch, which the server adds itself."""
    dims: list[Field] = [int(size) if size.isdecimal() else -1 for size in value.shape[1:]]
    return {"name": value.name, "data_type": _type(value), "dims": dims}


def _type(value: Value) -> Name:
    return Name(f"TYPE_{_TYPES.get(value.dtype, value.dtype)}")


def _warmup(graph: GraphDescription, profile: ShapeProfile, size: int) -> dict[str, Field]:
    """A run before the first request. Zeros are ids that every vocabulary has."""
    dims: list[Field] = [*profile.shapes[1][1:]]
    inputs: list[Field] = [
        {"key": item.name, "value": {"data_type": _type(item), "dims": dims, "zero_data": True}}
        for item in graph.inputs
    ]
    return {"name": f"batch {size}, length {dims[-1]}", "batch_size": size, "inputs": inputs}


def _add(
    folder: Path, config: str, files: Sequence[Path], labels: str | None, options: TritonOptions
) -> None:
    """Add one version to a model's folder, made if it is missing."""
    target = folder / str(options.version)
    if target.exists():
        raise InputError(f"{target}: exists; choose another --version or --name")
    known = folder / CONFIG
    if known.is_file() and known.read_text(encoding="utf-8") != config:
        raise InputError(f"{known}: is for another model or other options; choose another --name")
    partial = folder.with_name(f".{folder.name}.partial-{secrets.token_hex(4)}")
    content = partial / target.name
    try:
        content.mkdir(parents=True)
        for file in files:
            shutil.copyfile(file, content / file.name)
        (partial / CONFIG).write_text(config, encoding="utf-8")
        if labels is not None:
            (partial / LABELS).write_text(labels, encoding="utf-8")
        for path in [*partial.rglob("*"), partial]:
            sync(path)
        if folder.exists():
            content.rename(target)
        else:
            partial.rename(folder)
    except OSError as error:
        raise storage_error(error, folder) or InputError(
            f"{folder}: cannot be written ({error.strerror})"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
