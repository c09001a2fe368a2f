"""A LoRA adapter of PEFT, merged into the weights of its base model as they are read.

`W + scale * B A`, Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022;
`scale` is `alpha / r`, or `alpha / sqrt(r)` with `use_rslora` (Kalajdzievski 2023). The result must
be that of PEFT's `merge_and_unload` in fp32.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from exporter.deberta.configuration import read_object
from exporter.deberta.model_folder import ADAPTER
from exporter.deberta.weight_names import BACKBONE, HEADS, named
from exporter.deberta.weights import ADAPTER_FORMATS, StoredTensor, WeightStore, open_weights
from exporter.errors import InputError
from exporter.model.task import Task

TASKS = {
    "SEQ_CLS": Task.SEQUENCE_CLASSIFICATION,
    "TOKEN_CLS": Task.TOKEN_CLASSIFICATION,
    "QUESTION_ANS": Task.QUESTION_ANSWERING,
    "FEATURE_EXTRACTION": Task.BASE,
}
"""Heads by PEFT's `task_type`."""

UNCHANGED_BASE = (None, True, False, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` that leave the base as it is; the others (PiSSA, OLoRA, CorDA,
LoftQ, LoRA-GA) take something out of it before training, which is not in the file."""

REFUSED = (
    "use_dora use_qalora use_bdlora lora_bias layer_replication alora_invocation_tokens "
    "trainable_token_indices target_parameters velora_config monteclora_config arrow_config "
    "kasa_config megatron_config"
).split()
"""Settings that make another sum of it."""

_PREFIX = "base_model.model."
_LORA = re.compile(r"^(.*)\.lora_(embedding_)?([AB])(?:\.weight)?$")
_REPLACED = re.compile(r"\.(modules_to_save|base_layer)(?=\.)")


@dataclass(frozen=True)
class Adapter:
    """An adapter folder, opened: its settings as they stand there, and its weights."""

    folder: Path
    settings: Mapping[str, Any]
    store: WeightStore

    @property
    def task(self) -> Task | None:
        """The head that it was trained with, where it says."""
        return TASKS.get(str(self.settings.get("task_type")))

    def base_folder(self, given: Path | None) -> Path:
        """The folder of the model that it changes: the one given, its own, or the one it names.

        Raises:
            InputError: there is no such folder.
        """
        if given is not None:
            return given
        if any(self.folder.glob("model*.safetensors")) or any(self.folder.glob("pytorch_model*")):
            return self.folder
        name = self.settings.get("base_model_name_or_path")
        for place in (self.folder / str(name), Path(str(name))):
            if name and place.is_dir():
                return place
        raise InputError(
            f"{self.folder}: an adapter without its model, {name or 'which it does not name'}; "
            "give the folder of that model with --base"
        )

    def merged(self, base: WeightStore) -> WeightStore:
        """The tensors of the base model, by bare name, with this adapter in them.

        Raises:
            InputError: the adapter does not fit them, or has what cannot be merged.
        """
        pairs: dict[str, dict[str, StoredTensor]] = {}
        tensors = dict(base.tensors)
        left = []
        parts = {part for forms in HEADS.values() for form in forms for part in form}
        for name, tensor in self.store.tensors.items():
            if ".original_module." in name:
                continue  # the base's own, which the module that was saved took the place of
            if found := _LORA.match(name):
                pairs.setdefault(found[1], {})[f"{found[2] or ''}{found[3]}"] = tensor
                continue
            bare = _bare(_REPLACED.sub("", name))
            if "lora_" in name or (bare not in tensors and bare.partition(".")[0] not in parts):
                left.append(name)
            tensors[bare] = tensor
        if left:
            raise InputError(f"{self.folder}: has what LoRA has not: {named(left)}")
        for module, pair in pairs.items():
            key = f"{_bare(module)}.weight"
            if key not in tensors:
                raise InputError(f"{self.folder}: is for {module}, which the base does not have")
            tensors[key] = self._sum(module, tensors[key], pair)
        count = f"{len(pairs)} matrices" if len(pairs) != 1 else "1 matrix"
        others = sum(tensors[key] is not tensor for key, tensor in base.tensors.items())
        others += len(tensors) - len(base.tensors) - len(pairs)
        note = f"{self.folder}: a LoRA adapter, merged: {count} changed, {others} tensors replaced"
        return replace(base, files=(*base.files, *self.files), tensors=tensors,
                       notes=(*base.notes, *self.store.notes, note))  # fmt: skip

    @property
    def files(self) -> tuple[Path, ...]:
        """Its settings and weights."""
        return (self.folder / ADAPTER, *self.store.files)

    def _sum(
        self, module: str, weight: StoredTensor, pair: Mapping[str, StoredTensor]
    ) -> StoredTensor:
        """`weight` with the product of a pair added to it when it is read."""
        embedding = "embedding_A" in pair
        names = ("embedding_A", "embedding_B") if embedding else ("A", "B")
        if set(pair) != set(names):
            raise InputError(f"{self.folder}: of {module} it has {named(pair)} alone")
        down, up = (pair[name] for name in names)
        rank = self._of(module, "rank_pattern", "r")
        product = (*up.shape[:1], *down.shape[1:])
        if len(weight.shape) != 2 or (product[::-1] if embedding else product) != weight.shape:
            raise InputError(
                f"{self.folder}: {module} is {weight.shape}, its A {down.shape} and B {up.shape}; "
                "the adapter is of another model, or of a layer that is no matrix"
            )
        if down.shape[0] != up.shape[1] or rank != down.shape[0]:
            raise InputError(f"{self.folder}: r of {module} is {rank}, its A is {down.shape}")
        alpha = self._of(module, "alpha_pattern", "lora_alpha")
        scale = alpha / (rank**0.5 if self.settings.get("use_rslora") else rank)
        return replace(weight, read=partial(_merge, weight.read, down.read, up.read, scale))

    def _of(self, module: str, pattern: str, name: str) -> float:
        """A setting of a module: of the first pattern that matches its name, or of all."""
        for key, value in (self.settings.get(pattern) or {}).items():
            if re.match(rf"(.*\.)?({key})$", module.removeprefix(_PREFIX)):
                return float(value)
        return float(self.settings[name])


def open_adapter(folder: Path) -> Adapter | None:
    """The adapter in a folder, None where there is none.

    Raises:
        InputError: it is damaged, or of a kind that cannot be merged; the kind is named.
    """
    path = folder / ADAPTER
    if not path.exists():
        return None
    settings = read_object(path)
    kind = settings.get("peft_type")
    if kind != "LORA":
        what = "an adapter of another library than PEFT" if kind is None else f"an adapter {kind}"
        raise InputError(f"{path}: {what}; only LORA is merged: save the model with it merged")
    used = [name for name in REFUSED if settings.get(name)]
    if settings.get("init_lora_weights") not in UNCHANGED_BASE:
        used.append(f"init_lora_weights {settings['init_lora_weights']!r}")
    if used:
        raise InputError(
            f"{path}: LoRA with {', '.join(used)} is not merged here; save the model with the "
            "adapter merged (merge_and_unload)"
        )
    numbers = [settings.get("r"), settings.get("lora_alpha")]
    patterns = [settings.get(name) or {} for name in ("rank_pattern", "alpha_pattern")]
    values = [*numbers, *(v for p in patterns if isinstance(p, dict) for v in p.values())]
    known = all(isinstance(v, (int, float)) and not isinstance(v, bool) and v > 0 for v in values)
    if not known or not all(isinstance(pattern, dict) for pattern in patterns):
        raise InputError(f"{path}: r, lora_alpha or a pattern of them is not a positive number")
    return Adapter(folder, settings, open_weights(folder, ADAPTER_FORMATS))


def _bare(name: str) -> str:
    return name.removeprefix(_PREFIX).removeprefix(BACKBONE)


def _merge(
    weight: Callable[[], torch.Tensor],
    down: Callable[[], torch.Tensor],
    up: Callable[[], torch.Tensor],
    scale: float,
) -> torch.Tensor:
    """`W + scale * B A` in fp32; the product is transposed for an embedding."""
    base = weight().float()
    product = scale * (up().float() @ down().float())
    return base + (product if product.shape == base.shape else product.T)
