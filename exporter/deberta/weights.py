"""The weight files of a checkpoint folder, read one tensor at a time.

safetensors files are memory-mapped anew for each tensor, so that reading a whole model leaves no
more in memory than what the caller keeps. Pickle files load with `weights_only=True`: nothing in
them is executed.
"""

from __future__ import annotations

import json
import pickle
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from exporter.errors import InputError

SAFETENSORS = "model.safetensors"
PICKLE = "pytorch_model.bin"
FLOAT_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class WeightStore(ABC):
    """Tensors by name, wherever they are stored."""

    files: tuple[Path, ...]
    """Every file that the tensors and their index come from."""

    @abstractmethod
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every stored tensor, by its name."""

    @abstractmethod
    def _stored(self, name: str) -> torch.Tensor:
        """The tensor in its stored dtype."""

    def read(self, name: str) -> torch.Tensor:
        """The tensor in fp32: the mapped file itself where it is stored so, else a converted copy.

        Raises:
            InputError: it is not a float tensor, or holds NaN or infinity.
        """
        stored = self._stored(name)
        if stored.dtype not in FLOAT_DTYPES:
            raise InputError(f"tensor {name} is stored as {stored.dtype}; expected a float type")
        tensor = stored.to(torch.float32)
        if tensor.numel() and not all(torch.isfinite(bound) for bound in torch.aminmax(tensor)):
            raise InputError(
                f"tensor {name} holds NaN or infinite values; the checkpoint is broken"
            )
        return tensor


@dataclass(frozen=True)
class _Entry:
    file: Path
    shape: tuple[int, ...]


class SafetensorsStore(WeightStore):
    """One safetensors file, or the shards that an index names."""

    def __init__(self, files: tuple[Path, ...], index: Path | None = None) -> None:
        self.files = files if index is None else (index, *files)
        self._entries: dict[str, _Entry] = {}
        for file in files:
            try:
                # safetensors reports an unreadable file as a missing one: ask the system first.
                with file.open("rb"), safe_open(file, framework="pt") as handle:
                    for name in handle.keys():  # noqa: SIM118 - the handle is no mapping
                        shape = tuple(handle.get_slice(name).get_shape())
                        self._entries[name] = _Entry(file, shape)
            except (SafetensorError, OSError) as error:
                raise InputError(f"{file}: not a readable safetensors file: {error}") from None

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: entry.shape for name, entry in self._entries.items()}

    def _stored(self, name: str) -> torch.Tensor:
        with safe_open(self._entries[name].file, framework="pt") as handle:
            tensor: torch.Tensor = handle.get_tensor(name)
        return tensor


class PickleStore(WeightStore):
    """`pytorch_model.bin`, whole or in shards, memory-mapped."""

    def __init__(self, files: tuple[Path, ...], index: Path | None = None) -> None:
        self.files = files if index is None else (index, *files)
        self._tensors: dict[str, torch.Tensor] = {}
        for file in files:
            self._tensors.update(_load_pickle(file))

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def _stored(self, name: str) -> torch.Tensor:
        return self._tensors[name]


def _load_pickle(file: Path) -> dict[str, torch.Tensor]:
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
        isinstance(name, str) and isinstance(tensor, torch.Tensor)
        for name, tensor in loaded.items()
    ):
        raise InputError(f"{file}: expected a state dict, names to tensors")
    return loaded


def open_weights(folder: Path) -> WeightStore:
    """Find and open the weights of a folder, safetensors before pickle.

    Raises:
        InputError: there are none, an index is broken or names a missing shard, or a file is
            truncated, corrupt, or would execute code.
    """
    stores: tuple[tuple[str, type[SafetensorsStore] | type[PickleStore]], ...] = (
        (SAFETENSORS, SafetensorsStore),
        (PICKLE, PickleStore),
    )
    for name, store in stores:
        if (folder / name).exists():
            return store((folder / name,))
        index = folder / f"{name}.index.json"
        if index.exists():
            return store(_shards(index), index)
    raise InputError(f"{folder}: no weights; expected {SAFETENSORS} or {PICKLE}, whole or sharded")


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
