"""A checkpoint folder: its configuration, its task, and its tensors under the model's own names.

What names are read as, and what folders are, is in the tables of `weight_names`, `model_folder` and
`adapter`; docs/checkpoints.md has all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from exporter.deberta.adapter import open_adapter
from exporter.deberta.configuration import DebertaConfig
from exporter.deberta.gliner_configuration import read_config
from exporter.deberta.gliner_weights import gliner_store
from exporter.deberta.heads import AttentionKind, make_model
from exporter.deberta.model_folder import CONFIG, config_file, find_model
from exporter.deberta.weight_names import (
    BACKBONE,
    TIED,
    bare_names,
    hints,
    infer_task,
    named,
    strip_prefix,
)
from exporter.deberta.weights import WeightStore, open_weights, second_copy
from exporter.errors import InputError
from exporter.model.model_shape import ModelShape
from exporter.model.task import ARCHITECTURES, LastLayer, Task

_MAX_NAMED = 5


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint; tensors stay on disk until they are read.

    Attributes:
        folder: of the model, or of the adapter that is merged into it.
        base: of the model that the adapter is merged into; `folder` without one.
        config_file: its `config.json` or `gliner_config.json`, whose labels those of `config` may
            replace.
        store: its tensors by bare name, see `weight_names`.
        sources: name of each of the model's tensors -> its key in `store`.
        ignored: stored tensors that the model does not use, as the files name them.
        notes: what was changed on the way, and what a user should know: a sentence each.
    """

    folder: Path
    base: Path
    config_file: Path
    config: DebertaConfig
    task: Task
    store: WeightStore
    sources: Mapping[str, str]
    ignored: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def shape(self) -> ModelShape:
        """What the model takes and gives."""
        return self.config.shape(self.task)

    @property
    def own_labels(self) -> dict[str, Any] | None:
        """Fields of `config.json` for labels that the file does not have; None where it has."""
        labels = dict(self.config.id2label)
        if read_config(self.config_file.parent).id2label == labels:
            return None
        inverse = {label: index for index, label in labels.items()}
        return {"id2label": {str(index): name for index, name in labels.items()},
                "label2id": inverse, "num_labels": None}  # fmt: skip

    @property
    def files(self) -> tuple[Path, ...]:
        """The configuration and every weight file."""
        return (self.config_file, *self.store.files)

    def read(self, name: str) -> torch.Tensor:
        """The model's tensor `name` in fp32; InputError unless it is a finite float tensor."""
        return self.store.read(self.sources[name])


def open_checkpoint(
    folder: Path, task: Task | None = None, *, base: Path | None = None, strict: bool = False
) -> Checkpoint:
    """Open a folder in the Hugging Face format that has all of the model's tensors.

    Args:
        folder: of a model, of a LoRA adapter, or of both.
        task: its head; by default the one that the adapter or `architectures` names, or else the
            one that the weights hold.
        base: the model of an adapter; by default the one beside it, or that it names.
        strict: whether a stored tensor that the model does not use is an error, not a note.

    Raises:
        InputError: the folder, the configuration or the weights are unusable; missing and wrongly
            shaped tensors are named.
    """
    adapter = open_adapter(folder)
    if adapter is None:
        if base is not None:
            raise InputError(f"--base {base}: {folder} has no adapter; leave it out")
        base, notes = find_model(folder)
        folder = base
    else:
        base, notes = find_model(adapter.base_folder(base))
    where = config_file(folder) or config_file(base)
    assert where is not None  # find_model has seen one of them
    config = read_config(where.parent)
    if config.gliner is None:
        store = _with_bare_names(open_weights(base), base)
    else:
        store = gliner_store(open_weights(base), str(base))
    if adapter is not None:
        store = adapter.merged(store)
        task = task or adapter.task
        config, named_labels = _with_labels(config, store)
        notes += named_labels
    if config.gliner is not None and task not in (None, Task.GLINER):
        raise InputError(f"--task {task}: {folder} is a GLiNER model; leave it out")
    if task is None:
        task, inferred = _task_of(config, folder, store)
        notes += inferred
    sources, ignored = _match(config, task, store, folder)
    if ignored:
        note = f"{folder}: {task} does not use {named(ignored)}"
        if strict:
            raise InputError(f"{note}; leave out --strict to build without them")
        notes += (note,)
    notes = (*notes, *store.notes, *(f"{where}: {note}" for note in config.notes))
    return Checkpoint(folder, base, where, config, task, store, sources, ignored, notes)


def load_model(
    checkpoint: Checkpoint, attention: AttentionKind = "eager", last_layer: LastLayer = "full"
) -> nn.Module:
    """The reference model with its weights, in fp32 and evaluation mode, on the CPU.

    Tensors stored in fp32 stay memory-mapped, so the weights are never held twice. Raises
    InputError when a tensor holds NaN or infinity, and as `make_model` does for the others.
    """
    with torch.device("meta"):
        model = make_model(checkpoint.config, checkpoint.task, attention, last_layer)
    # Names with one source share its tensor.
    names = dict.fromkeys(checkpoint.sources.values())
    tensors = {name: checkpoint.store.read(name) for name in names}
    state = {name: tensors[source] for name, source in checkpoint.sources.items()}
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)


def contradictions(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What the weights say twice, and not alike; all of them are read for it."""
    store, used = checkpoint.store, set(checkpoint.sources.values())
    found = [second_copy(checkpoint.base)]
    for name, source in TIED.items():
        if name in used and source in store.tensors:
            first, second = (store.tensors[key].read() for key in (name, source))
            if not torch.equal(first.float(), second.float()):
                text = f"{name} is stored, and has other values than {source}, which it is tied to"
                found.append(f"{checkpoint.base}: {text}; the stored one is used")
    return tuple(note for note in found if note)


def _with_bare_names(store: WeightStore, folder: Path) -> WeightStore:
    """The tensors by bare name."""
    prefix = strip_prefix(store.tensors, str(folder))
    names = bare_names(store.tensors, prefix)
    notes = store.notes
    if prefix:
        notes += (f"{folder}: all tensors begin with {prefix!r}, which is left out",)
    return WeightStore(store.files, {key: store.tensors[n] for key, n in names.items()}, notes)


def _match(
    config: DebertaConfig, task: Task, store: WeightStore, where: Path
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Key of each of the model's tensors, and the stored names that none of them has."""
    stored = store.tensors
    with torch.device("meta"):
        state = make_model(config, task).state_dict()
    expected = {name: tuple(tensor.shape) for name, tensor in state.items()}
    sources: dict[str, str] = {}
    for name in expected:
        bare: str = name.removeprefix(BACKBONE)
        tied = TIED.get(name, "") if config.tie_word_embeddings or name.endswith("bias") else ""
        if present := [key for key in (bare, tied) if key in stored]:
            sources[name] = present[0]
    read = {*sources.values(), *(TIED[name] for name in sources if name in TIED)}
    unused = tuple(sorted(stored[key].name for key in set(stored) - read))
    missing = sorted(set(expected) - set(sources))
    wrong = [
        f"{stored[key].name} is {stored[key].shape}, expected {expected[name]}"
        for name, key in sorted(sources.items())
        if stored[key].shape != expected[name]
    ]
    if missing or wrong:
        problems = {"missing": missing, "unexpected": unused, "wrong shape": wrong}
        found = (f"{kind}: {named(names, _MAX_NAMED)}" for kind, names in problems.items() if names)
        misfit = f"the weights do not fit {CONFIG} and the task {task}"
        message = "; ".join([misfit, *found, *hints(missing, stored)])
        raise InputError(f"{where}: {message}")
    return sources, unused


def _task_of(
    config: DebertaConfig, folder: Path, store: WeightStore
) -> tuple[Task, tuple[str, ...]]:
    """The head that `architectures` names, or else the weights, which is to be said."""
    if config.gliner is not None:
        return Task.GLINER, ()
    known = [ARCHITECTURES[name] for name in config.architectures if name in ARCHITECTURES]
    if known:
        return known[0], ()
    if config.architectures:
        names = ", ".join(config.architectures)
        raise InputError(
            f"{folder}: architectures names {names}, none of which is known; "
            f"choose with --task one of {', '.join(ARCHITECTURES.values())}"
        )
    try:
        task = infer_task(config, {key: tensor.shape for key, tensor in store.tensors.items()})
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None
    if task is Task.BASE:
        return task, ()
    return task, (f"{folder}: no architectures in {CONFIG}; the weights are of {task}",)


def _with_labels(
    config: DebertaConfig, store: WeightStore
) -> tuple[DebertaConfig, tuple[str, ...]]:
    """The configuration with as many labels as the classifier of an adapter has rows."""
    classifier = store.tensors.get("classifier.bias")
    rows = config.num_labels if classifier is None else classifier.shape[0]
    if rows == config.num_labels:
        return config, ()
    labels = {index: f"LABEL_{index}" for index in range(rows)}
    note = f"the adapter has {rows} labels, {CONFIG} {config.num_labels}: they are called LABEL_0.."
    return replace(config, id2label=labels), (note,)
