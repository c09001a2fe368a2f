"""What a reference gave, kept on disk by hash: so it runs once for each input.

An entry is one batch, as safetensors. Its name is a hash of the model's files, of the software and
of the token ids; its content carries a hash of its own, so a damaged one is no entry. Entries are
written beside their place and renamed: two processes may share a folder.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from calibration.whole_files import write_whole
from exporter.errors import InputError
from exporter.model.feeds import Ids
from exporter.parity.runners import Observation

LIMIT_BYTES = 4 << 30
"""The folder's size after a run: entries that nobody has used for the longest time go first."""

_MAGIC = b"deb-export reference 2\n"
_SUFFIX = ".reference"
_IN_USE_SECONDS = 3600.0
"""An entry that was used within this time may be another process's and stays."""


def default_folder() -> Path:
    """Where entries are kept by default: below $XDG_CACHE_HOME.

    Raises:
        OSError: nothing can be kept there.
    """
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(os.path.expanduser(root)) / "deb-export" / "parity"  # noqa: PTH111 - no home, no error
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        return folder


def entry_key(model: str, feeds: Mapping[str, Ids], layers: bool) -> str:
    """The name of the entry of a batch; `model` tells the model and what runs it, `layers` whether
    the hidden states are in it."""
    digest = hashlib.sha256(f"{model}\n{layers}\n".encode())
    for name in sorted(feeds):
        array = np.ascontiguousarray(feeds[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


class ReferenceStore:
    """A folder of entries, made when the first one is written; `option` is what chooses it."""

    def __init__(self, folder: Path, option: str = "--reference-cache") -> None:
        self.folder, self._option = folder, option
        self._used: set[str] = set()

    def get(self, key: str) -> Observation | None:
        """The entry, None where there is none or it is damaged; then it is removed."""
        path = self._path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        entry = _parse(content)
        if entry is None:
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)
        self._used.add(key)
        return entry

    def put(self, key: str, entry: Observation) -> None:
        """Write an entry.

        Raises:
            InputError: it cannot be written; nothing is left of it.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Its hash tells whether an entry outlived a power failure.
            write_whole(self._path(key), _pieces(entry), durable=False)
        except OSError as error:
            raise InputError(
                f"{self.folder}: outputs of the reference cannot be kept ({error.strerror}); "
                f"choose another {self._option}"
            ) from None
        self._used.add(key)

    def trim(self) -> None:
        """Remove entries until the folder is within `LIMIT_BYTES`."""
        found = []
        for path in self.folder.glob(f"*{_SUFFIX}"):
            with suppress(OSError):  # another process may have removed it
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in found)
        newest = time.time() - _IN_USE_SECONDS
        for used, size, path in sorted(found):
            if total <= LIMIT_BYTES:
                break
            if used <= newest or path.stem in self._used:
                with suppress(OSError):
                    path.unlink()
                    total -= size

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"


def _pieces(entry: Observation) -> list[bytes]:
    arrays = {f"output {name}": array for name, array in entry.outputs.items()}
    arrays |= {f"layer {index:04}": array for index, array in enumerate(entry.layers)}
    arrays["seconds"] = np.array([entry.seconds])
    payload = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return [_MAGIC, hashlib.sha256(payload).digest(), payload]


def _parse(content: bytes) -> Observation | None:
    """The entry in a file; None where it is not whole."""
    start = len(_MAGIC) + hashlib.sha256().digest_size
    payload = content[start:]
    if content[:start] != _MAGIC + hashlib.sha256(payload).digest():
        return None
    arrays = load(payload)
    prefix = "output "
    outputs = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
    layers = [arrays[name] for name in sorted(arrays) if name.startswith("layer ")]
    return Observation(outputs, layers, float(arrays["seconds"][0]))
