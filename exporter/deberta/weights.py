"""The weight files of a checkpoint folder, read one tensor at a time.

safetensors files are memory-mapped anew for each tensor, so that reading a whole model leaves no
more in memory than what the caller keeps. Pickle files load with `weights_only=True`: nothing in
them is executed.
"""

from __future__ import annotations

import json
import pickle
from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from exporter.errors import InputError

FLOAT_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its shape, and how to read it in its stored dtype."""

    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]


@dataclass(frozen=True)
class WeightStore:
    """Tensors by name, and every file that they and their index come from."""

    files: tuple[Path, ...]
    tensors: Mapping[str, StoredTensor]

    def read(self, name: str) -> torch.Tensor:
        """The tensor in fp32: the mapped file itself where it is stored so, else a converted copy.

        Raises InputError when it is not a float tensor, or holds NaN or infinity.
        """
        stored = self.tensors[name].read()
        if stored.dtype not in FLOAT_DTYPES:
            raise InputError(f"tensor {name} is stored as {stored.dtype}; expected a float type")
        tensor = stored.to(torch.float32)
        if tensor.numel() and not all(torch.isfinite(bound) for bound in torch.aminmax(tensor)):
            raise InputError(
                f"tensor {name} holds NaN or infinite values; the checkpoint is broken"
            )
        return tensor


def open_weights(folder: Path) -> WeightStore:
    """Find and open the weights of a folder, safetensors before pickle.

    Raises InputError when there are none, an index is broken or names a missing shard, or a file is
    truncated, corrupt, or would execute code.
    """
    for name, open_file in _FORMATS.items():
        whole, index = folder / name, folder / f"{name}.index.json"
        if not whole.exists() and not index.exists():
            continue
        shards = (whole,) if whole.exists() else _shards(index)
        tensors = ChainMap(*map(open_file, reversed(shards)))
        return WeightStore(shards if whole.exists() else (index, *shards), tensors)
    raise InputError(f"{folder}: no weights; expected {' or '.join(_FORMATS)}, whole or sharded")


def _open_safetensors(file: Path) -> dict[str, StoredTensor]:
    try:
        # safetensors reports an unreadable file as a missing one: ask the system first.
        with file.open("rb"), safe_open(file, framework="pt") as handle:
            return {
                name: StoredTensor(
                    tuple(handle.get_slice(name).get_shape()), partial(_mapped, file, name)
                )
                for name in handle.keys()  # noqa: SIM118 - the handle is no mapping
            }
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a readable safetensors file: {error}") from None


def _mapped(file: Path, name: str) -> torch.Tensor:
    with safe_open(file, framework="pt") as handle:
        tensor: torch.Tensor = handle.get_tensor(name)
    return tensor


def _open_pickle(file: Path) -> dict[str, StoredTensor]:
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
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{file}: not a readable PyTorch weight file: {error}") from None
    if not isinstance(loaded, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in loaded.items()
    ):
        raise InputError(f"{file}: expected a state dict, names to tensors")
    return {name: StoredTensor(tuple(t.shape), t.detach) for name, t in loaded.items()}


_FORMATS = {"model.safetensors": _open_safetensors, "pytorch_model.bin": _open_pickle}


def _shards(index: Path) -> tuple[Path, ...]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted({str(name) for name in weight_map.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index}: not a readable weight index: {error!r}") from None
    for name in names:
        # An index is data from elsewhere: it names files of its own folder only.
        if Path(name).name != name:
            raise InputError(f"{index}: names {name!r}, which is not a file beside it")
        if not (index.parent / name).is_file():
            raise InputError(f"{index}: names {name}, which is missing")
    return tuple(index.parent / name for name in names)
