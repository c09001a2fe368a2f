"""The sides of a comparison: a checkpoint, an artifact, an ONNX file, an engine, saved outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from exporter.artifact.files import FileRecord, record, verify_files
from exporter.artifact.manifest import MANIFEST, MODEL_FILE, Manifest, read_manifest
from exporter.deberta.configuration import DebertaConfig
from exporter.errors import InputError
from exporter.model.model_shape import ModelShape
from exporter.model.task import ARCHITECTURES, Task
from exporter.parity.result import SideInfo
from exporter.parity.runners import Runner
from exporter.parity.side import Open, Side
from exporter.runtime.load import artifact_shape, source_folder

_VOCABULARIES = ("spm.model", "tokenizer.json")


def open_side(path: Path, task: Task | None = None) -> Side:
    """What is at `path`.

    Args:
        path: a checkpoint or artifact folder, an .onnx file, a .plan engine, or a .json of outputs
            that Polygraphy saved.
        task: the head of a checkpoint; as its configuration says by default.

    Raises:
        InputError: nothing is there, or nothing that can be compared.
    """
    if path.is_dir():
        if (path / MANIFEST).is_file():
            return artifact_side(path)
        return checkpoint_side(path, task)
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder")
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        beside = path.parent
        if path.name == MODEL_FILE and (beside / MANIFEST).is_file():
            return artifact_side(beside)
        return onnx_side(path)
    if suffix == ".plan":
        from exporter.parity.engine_side import engine_side

        return engine_side(path)
    if suffix == ".json":
        return _saved_side(path)
    raise InputError(
        f"{path}: give a checkpoint or artifact folder, an .onnx file, a .plan engine, or a .json "
        "of outputs that polygraphy run saved"
    )


def checkpoint_side(folder: Path, task: Task | None = None) -> Side:
    """A checkpoint folder, run by our PyTorch model in fp32.

    Raises:
        InputError: it is unusable.
        MissingDependencyError: PyTorch is not installed.
    """
    from exporter.runtime.load import require_torch

    require_torch()
    from exporter.deberta.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(folder, task)
    files = (*checkpoint.files, *_vocabulary_files(folder))
    shape = checkpoint.shape
    return reference_side(folder, shape, tuple(record(path) for path in files))


def reference_side(folder: Path, shape: ModelShape, files: tuple[FileRecord, ...]) -> Side:
    """A checkpoint that has been opened already.

    Args:
        folder: the checkpoint.
        shape: its model.
        files: its files with their hashes.
    """
    return Side(
        info=SideInfo(str(folder), "checkpoint", "fp32", "torch fp32", files),
        shape=shape,
        folder=_tokenizer_folder(folder),
        longest=shape.max_position_embeddings,
        opens=(lambda shape: _torch(folder, shape),),
    )


def artifact_side(folder: Path) -> Side:
    """The graph of an artifact. A changed file is a problem, and the graph runs all the same.

    Raises:
        InputError: no artifact there, or the manifest is malformed.
    """
    manifest = read_manifest(folder)
    problems = verify_files(folder, manifest.files)
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
        opens=graph_opens(folder / MODEL_FILE, manifest.half),
        problems=tuple(f"{item.path} {item.problem}" for item in problems),
    )


def source_side(manifest: Manifest, checkpoint: Path | None = None) -> Side:
    """The checkpoint that an artifact was built from.

    Args:
        manifest: of the artifact.
        checkpoint: where the checkpoint is now; where the manifest says by default.

    Raises:
        InputError: it is gone, or is another one.
    """
    folder = checkpoint or source_folder(manifest)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name the source checkpoint with --checkpoint")
    changed = verify_files(folder, manifest.source.files)
    if changed:
        first = f"{changed[0].path} {changed[0].problem}"
        raise InputError(f"{folder}: not the checkpoint that the artifact was built from: {first}")
    return checkpoint_side(folder, Task(manifest.task))


def graph_opens(path: Path, half: str | None) -> tuple[Open, ...]:
    """What runs a graph of ours.

    A graph in fp16 or bf16 is judged with the rounding of that type in every value. ONNX Runtime's
    CPU provider runs fp16 as it is, in fp32 arithmetic: that is what such a user gets, so it must
    hold the limits as well. It cannot run bf16.

    Args:
        path: the graph.
        half: "fp16" or "bf16" where it has values of that type.
    """
    native: Open = lambda shape: _graph(path, shape, rounded=False)  # noqa: E731
    rounded: Open = lambda shape: _graph(path, shape, rounded=True)  # noqa: E731
    if half is None:
        return (native,)
    return (rounded,) if half == "bf16" else (rounded, native)


def onnx_side(path: Path) -> Side:
    """An ONNX file of any exporter; what it says of itself, or `config.json` beside it, counts.

    Raises:
        InputError: not an ONNX file, or not one of such a model.
    """
    from exporter.parity.onnx_facts import read_facts

    facts = read_facts(path)
    beside = path.parent
    shape = facts.shape
    notes = [f"made by {facts.producer}"]
    if shape is None and (beside / "config.json").is_file():
        config = DebertaConfig.from_folder(beside)
        known = [ARCHITECTURES[name] for name in config.architectures if name in ARCHITECTURES]
        shape = config.shape(known[0]) if known else None
    # Another exporter's fp16 graph is run as it is: where its casts belong is its own affair.
    half = facts.precision if facts.ours and facts.precision in ("fp16", "bf16") else None
    return Side(
        info=SideInfo(
            name=str(path),
            kind="onnx",
            precision=facts.precision,
            files=tuple(record(file) for file in (path, *facts.external)),
            notes=tuple(notes),
        ),
        shape=shape,
        folder=_tokenizer_folder(beside),
        longest=facts.length,
        opens=graph_opens(path, half),
    )


def _saved_side(path: Path) -> Side:
    from exporter.parity.runners import SavedRunner

    return Side(
        info=SideInfo(str(path), "saved outputs", "fp32", files=(record(path),)),
        shape=None,
        folder=None,
        longest=None,
        opens=(lambda shape: SavedRunner(path, shape),),
        saved=True,
    )


def common_shape(reference: Side, candidate: Side) -> ModelShape:
    """The model that both sides are.

    Raises:
        InputError: they are different ones, in task, size, labels or vocabulary, or neither says.
    """
    first, second = reference.shape, candidate.shape
    if first is None or second is None:
        found = first or second
        if found is None:
            raise InputError(
                f"{candidate.info.name}: neither side says which model it is; put the checkpoint's "
                "config.json beside one, or give the checkpoint as a side"
            )
        return found
    pairs = (
        ("task", first.task.value, second.task.value),
        ("vocabulary size", first.vocab_size, second.vocab_size),
        ("number of labels", first.num_labels, second.num_labels),
        ("token types", first.type_vocab_size, second.type_vocab_size),
        *(
            (("hidden size", first.hidden_size, second.hidden_size),)
            if first.task is Task.BASE
            else ()
        ),
    )
    for what, ours, theirs in pairs:
        if ours != theirs and not (what == "number of labels" and first.task is Task.MASKED_LM):
            raise InputError(
                f"{what}: {reference.info.name} has {ours}, {candidate.info.name} has {theirs}; "
                "they are different models"
            )
    _check_labels(reference, candidate, first, second)
    _check_vocabularies(reference, candidate)
    return first


def _check_labels(reference: Side, candidate: Side, first: ModelShape, second: ModelShape) -> None:
    """Refuse the same labels in another order."""
    ours, theirs = dict(first.id2label), dict(second.id2label)
    if ours != theirs and sorted(ours.values()) == sorted(theirs.values()):
        raise InputError(
            f"labels: {reference.info.name} has {ours}, {candidate.info.name} has {theirs}: "
            "the same in another order"
        )


def _check_vocabularies(reference: Side, candidate: Side) -> None:
    """Refuse two vocabularies: the same ids would be different texts."""
    if reference.problems or candidate.problems:
        return  # a file that has changed fails the check, under its own name
    found = []
    for side in (reference, candidate):
        files = {} if side.folder is None else {p.name: p for p in _vocabulary_files(side.folder)}
        found.append(files)
    for name in _VOCABULARIES:
        if name in found[0] and name in found[1]:
            first, second = (record(files[name]).sha256 for files in found)
            if first != second:
                raise InputError(
                    f"{name}: that of {candidate.info.name} is another one than that of "
                    f"{reference.info.name}; they are different models"
                )


def _vocabulary_files(folder: Path) -> Sequence[Path]:
    return [folder / name for name in _VOCABULARIES if (folder / name).is_file()]


def _tokenizer_folder(folder: Path) -> Path | None:
    return folder if _vocabulary_files(folder) else None


def _torch(folder: Path, shape: ModelShape) -> Runner:
    from exporter.parity.runners import TorchRunner

    return TorchRunner(folder, shape)


def _graph(path: Path, shape: ModelShape, *, rounded: bool) -> Runner:
    from exporter.parity.graph_runner import GraphRunner

    return GraphRunner(path, shape, rounded=rounded)
