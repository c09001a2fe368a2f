"""The weight files of a checkpoint folder, read one tensor at a time.

safetensors files are memory-mapped anew for each tensor, so that reading a whole model leaves no
more in memory than what the caller keeps. Pickle files load with `weights_only=True`: nothing in
them is executed.
"""

from __future__ import annotations

import pickle
from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError, safe_open

from calibration.json_values import from_json_values, read_json
from exporter.deberta.model_folder import refuse_pointer
from exporter.deberta.weight_names import TIED
from exporter.errors import InputError

FLOAT_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

_INSIDE = ("state_dict", "model_state_dict", "model", "module")
"""Where training loops put the state dict in what they save: Lightning, PyTorch's own tutorial,
many others, DeepSpeed."""

_OTHER_FILES = {
    "*.onnx": "an ONNX file; give the checkpoint that it was exported from, or run `deb-export "
    "inspect` and `parity --candidate` on the file itself",
    "tf_model.h5": "weights of TensorFlow; save them with transformers 4 (from_tf=True) first",
    "flax_model.msgpack": "weights of Flax; save them with transformers 4 (from_flax=True) first",
    "*.ckpt": "a checkpoint of Lightning; rename it to pytorch_model.bin",
}
"""What a folder without weights may have instead, and what can be done."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its name there, its shape, and how to read it in its stored dtype."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]


@dataclass(frozen=True)
class WeightStore:
    """Tensors by name, and every file that they and their index come from.

    `notes` are what a user should know of the files.
    """

    files: tuple[Path, ...]
    tensors: Mapping[str, StoredTensor]
    notes: tuple[str, ...] = ()

    def read(self, key: str) -> torch.Tensor:
        """The tensor in fp32: the mapped file itself where it is stored so, else a converted copy.

        Raises InputError when it is not a float tensor, or holds NaN or infinity.
        """
        name, stored = self.tensors[key].name, self.tensors[key].read()
        if stored.dtype not in FLOAT_DTYPES:
            raise InputError(f"tensor {name} is stored as {stored.dtype}; expected a float type")
        tensor = stored.to(torch.float32)
        if tensor.numel() and not all(torch.isfinite(bound) for bound in torch.aminmax(tensor)):
            raise InputError(
                f"tensor {name} holds NaN or infinite values; the checkpoint is broken"
            )
        return tensor


def open_weights(folder: Path, formats: Formats | None = None) -> WeightStore:
    """Find and open the weights of a folder, safetensors before pickle; those of a model as a rule.

    Raises InputError when there are none, an index is broken or names a missing shard, or a file is
    truncated, corrupt, or would execute code.
    """
    formats = formats or MODEL_FORMATS
    for store in (_open_format(folder, *item) for item in formats.items()):
        if store is not None:
            return store
    message = f"{folder}: no weights; expected {' or '.join(formats)}, whole or sharded"
    for pattern, what in _OTHER_FILES.items():
        for path in sorted(folder.rglob(pattern) if pattern == "*.onnx" else folder.glob(pattern)):
            raise InputError(f"{message}; this folder holds {what} ({path.relative_to(folder)})")
    raise InputError(message)


def second_copy(folder: Path) -> str | None:
    """What a user should know of pickled weights beside safetensors: None where they are equal.

    Reads all tensors of both, up to the first that differs.
    """
    (name, open_file), (pickled, open_pickled) = MODEL_FORMATS.items()
    used = _open_format(folder, name, open_file)
    if used is None:
        return None
    beside = f"{folder}: {used.files[0].name} is read, {pickled} beside it is not"
    try:
        other = _open_format(folder, pickled, open_pickled)
    except InputError:
        return f"{beside}, and damaged"
    for key, tensor in other.tensors.items() if other else ():
        ours, theirs = used.tensors.get(key), tensor.read()
        if ours is None and (key in TIED or theirs.dtype not in FLOAT_DTYPES):
            continue  # safetensors has tied tensors once, and no buffers of positions
        if ours is None or not torch.equal(ours.read().float(), theirs.float()):
            return f"{beside}; they differ, in {key} first: remove the one that is out of date"
    return None


def _open_format(folder: Path, name: str, open_file: OpenFile) -> WeightStore | None:
    whole, index = folder / name, folder / f"{name}.index.json"
    if not whole.exists() and not index.exists():
        return None
    shards = (whole,) if whole.exists() else _shards(index)
    for shard in shards:
        refuse_pointer(shard)
    opened = [open_file(shard) for shard in reversed(shards)]
    tensors = ChainMap(*(tensors for tensors, _ in opened))
    notes = tuple(f"{whole}: {note}" for _, note in opened if note)
    return WeightStore(shards if whole.exists() else (index, *shards), tensors, notes)


def _open_safetensors(file: Path) -> Opened:
    try:
        # safetensors reports an unreadable file as a missing one: ask the system first.
        with file.open("rb"), safe_open(file, framework="pt") as handle:
            return {
                name: StoredTensor(
                    name, tuple(handle.get_slice(name).get_shape()), partial(_mapped, file, name)
                )
                for name in handle.keys()  # noqa: SIM118 - the handle is no mapping
            }, ""
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a readable safetensors file: {error}") from None


def _mapped(file: Path, name: str) -> torch.Tensor:
    with safe_open(file, framework="pt") as handle:
        tensor: torch.Tensor = handle.get_tensor(name)
    return tensor


def _open_pickle(file: Path) -> Opened:
    try:
        with file.open("rb") as stream:
            zipped = stream.read(2) == b"PK"
        # Files from before torch 1.6 are not zip archives and cannot be mapped.
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n", 1)[0]
        raise InputError(
            f"{file}: refused: it is damaged or holds more than tensors, and loading it could "
            f"execute code ({reason})"
        ) from None
    except Exception as error:  # a damaged file makes the unpickler fail in any way
        raise InputError(f"{file}: not a readable PyTorch weight file: {error}") from None
    for key in ("", *_INSIDE):
        found = loaded.get(key) if key and isinstance(loaded, dict) else loaded
        if isinstance(found, dict) and all(
            isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in found.items()
        ):
            note = f"its state dict is under {key!r}; the rest of it is not read" if key else ""
            tensors = {k: StoredTensor(k, tuple(v.shape), v.detach) for k, v in found.items()}
            return tensors, note
    raise InputError(f"{file}: expected a state dict, names to tensors")


Opened: TypeAlias = tuple[dict[str, StoredTensor], str]
"""The tensors of a file, and what a user should know of it."""
OpenFile: TypeAlias = Callable[[Path], Opened]
Formats: TypeAlias = Mapping[str, OpenFile]

MODEL_FORMATS: Formats = {
    "model.safetensors": _open_safetensors, "pytorch_model.bin": _open_pickle,
}  # fmt: skip
ADAPTER_FORMATS: Formats = {
    "adapter_model.safetensors": _open_safetensors, "adapter_model.bin": _open_pickle,
}  # fmt: skip


@dataclass(frozen=True)
class _Index:
    """An index of shards: the file of each tensor."""

    weight_map: Mapping[str, str]


def _shards(index: Path) -> tuple[Path, ...]:
    try:
        names = sorted(set(from_json_values(read_json(index), _Index).weight_map.values()))
    except (OSError, ValueError) as error:
        raise InputError(f"{index}: not a readable weight index: {error}") from None
    for name in names:
        # An index is data from elsewhere: it names files of its own folder only.
        if Path(name).name != name:
            raise InputError(f"{index}: names {name!r}, which is not a file beside it")
        if not (index.parent / name).is_file():
            raise InputError(f"{index}: names {name}, which is missing")
    return tuple(index.parent / name for name in names)
