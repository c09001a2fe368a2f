"""A checkpoint folder: its configuration, its task, and its tensors under the model's own names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from exporter.deberta.configuration import DebertaConfig
from exporter.deberta.heads import AttentionKind, make_model
from exporter.deberta.weights import WeightStore, open_weights
from exporter.errors import InputError
from exporter.model.model_shape import ModelShape
from exporter.model.task import ARCHITECTURES, Task

# Tensors that a checkpoint may carry for another head, or for code that no longer reads them.
_OTHER_HEADS = re.compile(
    r"^(cls|lm_predictions|mask_predictions|pooler|classifier|qa_outputs)\."
    r"|(^|\.)embeddings\.(position_ids|position_embeddings\.weight)$"
)
_MAX_NAMED = 5


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint; tensors stay on disk until they are read."""

    folder: Path
    config: DebertaConfig
    task: Task
    store: WeightStore
    sources: Mapping[str, str]
    """Name of each of the model's tensors -> name under which the files store it."""
    ignored: tuple[str, ...]
    """Stored tensors that the task does not use: other heads, buffers of older versions."""

    @property
    def shape(self) -> ModelShape:
        """What the model takes and gives."""
        return self.config.shape(self.task)

    @property
    def files(self) -> tuple[Path, ...]:
        """`config.json` and every weight file."""
        return (self.folder / "config.json", *self.store.files)

    def read(self, name: str) -> torch.Tensor:
        """The model's tensor `name` in fp32; InputError unless it is a finite float tensor."""
        return self.store.read(self.sources[name])


def open_checkpoint(folder: Path, task: Task | None = None) -> Checkpoint:
    """Open a folder in the Hugging Face format whose tensors are the model's, in name and shape.

    `task` is taken from `architectures` by default, the base model where the configuration names
    none. Raises InputError when the folder, the configuration or the weights are unusable; missing,
    unexpected and wrongly shaped tensors are named.
    """
    config = DebertaConfig.from_folder(folder)
    task = task_of(config, folder) if task is None else task
    store = open_weights(folder)
    with torch.device("meta"):
        state = make_model(config, task).state_dict()
    expected = {name: tuple(tensor.shape) for name, tensor in state.items()}
    stored = {name: tensor.shape for name, tensor in store.tensors.items()}
    sources: dict[str, str] = {}
    for name in expected:
        bare = name.removeprefix("deberta.")
        candidates = (name, f"deberta.{bare}", bare, *_tied_to(name, config))
        if present := [candidate for candidate in candidates if candidate in stored]:
            sources[name] = present[0]
    rest = sorted(set(stored) - set(sources.values()))
    ignored = tuple(name for name in rest if _OTHER_HEADS.search(name))
    problems = {
        "missing": sorted(set(expected) - set(sources)),
        "unexpected": [name for name in rest if name not in ignored],
        "wrong shape": [
            f"{source} is {stored[source]}, expected {expected[name]}"
            for name, source in sorted(sources.items())
            if stored[source] != expected[name]
        ],
    }
    found = "; ".join(f"{kind}: {_listed(names)}" for kind, names in problems.items() if names)
    if found:
        misfit = f"the weights do not fit config.json and the task {task}"
        raise InputError(f"{folder}: {misfit}; {found}")
    return Checkpoint(folder, config, task, store, sources, ignored)


def load_model(checkpoint: Checkpoint, attention: AttentionKind = "eager") -> nn.Module:
    """The reference model with its weights, in fp32 and evaluation mode, on the CPU.

    Tensors stored in fp32 stay memory-mapped, so the weights are never held twice. Raises
    InputError when a tensor holds NaN or infinity, or there is no such attention: see `make_model`.
    """
    with torch.device("meta"):
        model = make_model(checkpoint.config, checkpoint.task, attention)
    # Names with one source share its tensor.
    names = dict.fromkeys(checkpoint.sources.values())
    tensors = {name: checkpoint.store.read(name) for name in names}
    state = {name: tensors[source] for name, source in checkpoint.sources.items()}
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)


def task_of(config: DebertaConfig, folder: Path) -> Task:
    """The head that `architectures` names, the base model without; InputError for unknown ones."""
    known = [ARCHITECTURES[name] for name in config.architectures if name in ARCHITECTURES]
    if known or not config.architectures:
        return (*known, Task.BASE)[0]
    raise InputError(
        f"{folder}: architectures names {', '.join(config.architectures)}, none of which is known; "
        f"choose with --task one of {', '.join(ARCHITECTURES.values())}"
    )


def _tied_to(name: str, config: DebertaConfig) -> tuple[str, ...]:
    """Where a tensor of the legacy masked LM head is found when it is not stored itself.

    Matches `_tied_weights_keys` of transformers: a stored tensor of its own comes first.
    """
    if name == "cls.predictions.decoder.bias":
        return ("cls.predictions.bias",)
    if name == "cls.predictions.decoder.weight" and config.tie_word_embeddings:
        table = "embeddings.word_embeddings.weight"
        return (f"deberta.{table}", table)
    return ()


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more
