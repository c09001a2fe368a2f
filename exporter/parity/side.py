"""One side of a comparison, and whether two of them are the same model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from exporter.deberta.tokenization import vocabulary_of
from exporter.environment import package_version
from exporter.errors import InputError
from exporter.model.model_shape import ModelShape
from exporter.model.profile import ShapeProfile
from exporter.model.task import Task
from exporter.parity.result import SideInfo
from exporter.parity.runners import Runner
from exporter.precision.precision_plan import PrecisionPlan

Open = Callable[[ModelShape], Runner]
_ROOT = Path(__file__).parents[2]
_SOFTWARE = ("torch", "onnxruntime", "tensorrt", "tensorrt-rtx")
_VOCABULARIES = ("spm.model", "tokenizer.json")


@dataclass(frozen=True, eq=False)
class Side:
    """One side, opened as far as needed to know what it is; its weights are not loaded.

    Attributes:
        shape: the model; None for an ONNX file that says nothing of it.
        folder: has the tokenizer; None where there is none.
        longest: largest length in tokens that it takes, None where it does not say.
        opens: each loads it for another runtime; the result is that of the first, and what fails
            in another is a problem of it.
        problems: files that are not what the manifest says.
        profiles: shapes that it takes; empty for all.
        saved: its outputs belong to saved inputs; it takes no others.
        graph: a graph of ours and the plan that it was made by, to be judged stage by stage.
        checkpoint: whether `info.name` is a checkpoint, which a plan can be applied to.
        base: the model of that checkpoint's adapter.
        export: the fp32 graph that it was made of, where it is there: judged before it.
        engines: made of it: each is judged after it, where it can run.
    """

    info: SideInfo
    shape: ModelShape | None
    folder: Path | None
    longest: int | None
    opens: tuple[Open, ...]
    problems: tuple[str, ...] = ()
    profiles: tuple[ShapeProfile, ...] = ()
    saved: bool = False
    graph: tuple[Path, PrecisionPlan] | None = None
    checkpoint: bool = False
    base: Path | None = None
    export: Side | None = None
    engines: tuple[Side, ...] = ()

    def identity(self, task: Task) -> str:
        """Hash of its files, of the head that they run with and of the software that runs it."""
        digest = hashlib.sha256(f"{self.info.kind} {self.info.precision} {task.value}\n".encode())
        for item in self.info.files:
            digest.update(f"{item.path} {item.sha256}\n".encode())
        for name in _SOFTWARE:
            digest.update(f"{name} {package_version(name)}\n".encode())
        for folder in ("exporter/deberta", "plugins/disentangled_attention"):
            for path in sorted((_ROOT / folder).glob("*.py")):
                digest.update(path.read_bytes())
        return digest.hexdigest()


def vocabulary_files(folder: Path) -> dict[str, Path]:
    """The files in a folder that hold a vocabulary, by name."""
    paths = {name: folder / name for name in _VOCABULARIES}
    return {name: path for name, path in paths.items() if path.is_file()}


def common_shape(reference: Side, candidate: Side) -> ModelShape:
    """The model that both sides are.

    Raises:
        InputError: they are different ones, in task, size, labels or vocabulary, or neither says.
    """
    first, second = reference.shape, candidate.shape
    found = first or second
    if found is None:
        raise InputError(
            f"{candidate.info.name}: neither side says which model it is; put the checkpoint's "
            "config.json beside one, or give the checkpoint as a side"
        )
    if first is None or second is None:
        return found
    names = (reference.info.name, candidate.info.name)
    facts = _facts(first), _facts(second)
    for what, ours in facts[0].items():
        theirs = facts[1].get(what, ours)
        if ours != theirs:
            raise InputError(
                f"{what}: {names[0]} has {ours}, {names[1]} has {theirs}; they are different models"
            )
    labels = dict(first.id2label), dict(second.id2label)
    if labels[0] != labels[1] and sorted(labels[0].values()) == sorted(labels[1].values()):
        raise InputError(
            f"labels: {names[0]} has {labels[0]}, {names[1]} has {labels[1]}: "
            "the same in another order"
        )
    # A file that has changed fails the check, under its own name.
    if not reference.problems and not candidate.problems:
        _check_vocabularies(reference, candidate)
    return first


def _facts(shape: ModelShape) -> Mapping[str, object]:
    """What two models must have in common; a masked LM may be told any number of labels."""
    facts: dict[str, object] = {"task": shape.task.value, "vocabulary size": shape.vocab_size}
    if shape.task is not Task.MASKED_LM:
        facts["number of labels"] = shape.num_labels
    facts["token types"] = shape.type_vocab_size
    if shape.task is Task.BASE:
        facts["hidden size"] = shape.hidden_size
    return facts


def _check_vocabularies(reference: Side, candidate: Side) -> None:
    """Refuse two vocabularies: the same ids would be different texts."""
    sides = (reference, candidate)
    found = [vocabulary_files(side.folder) if side.folder else {} for side in sides]
    for name in (name for name in found[0] if name in found[1]):
        first, second = (vocabulary_of(files[name]) for files in found)
        if first != second:
            raise InputError(
                f"{name}: that of {candidate.info.name} is another one than that of "
                f"{reference.info.name}; they are different models"
            )
