"""Keeps an observation in a file while it runs, so that it goes on after an interruption."""

from __future__ import annotations

import hashlib
import io
import json
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from calibration.collectors import StatisticsCollector
from calibration.graphs import Feeds
from calibration.whole_files import write_whole

SAVE_SECONDS = 15.0
_VERSION = 1  # of the collectors' state: increase it when their meaning changes


@dataclass(frozen=True)
class Resume:
    """Where an observation is kept while it runs, so that it goes on after an interruption.

    Attributes:
        file: replaced whole every `seconds`; the caller deletes it when its results are safe.
        model_hash: identity of graph and weights. A file that belongs to another model, other
            batches or other tensors is ignored.
        seconds: between two saves; 0 saves after every batch.
    """

    file: Path
    model_hash: str
    seconds: float = SAVE_SECONDS


class StateFile:
    """The state of collectors by name of their tensor, on disk: written whole or not at all."""

    def __init__(
        self,
        resume: Resume,
        collectors: Mapping[str, StatisticsCollector],
        sample_rows: int,
        batches: Sequence[Feeds],
    ) -> None:
        self._file, self._seconds = resume.file, resume.seconds
        self._collectors = list(collectors.values())
        self._key = _identity([resume.model_hash, list(collectors), sample_rows], batches)
        self._saved_at = time.monotonic()

    def load(self) -> int:
        """Restore the collectors; the number of batches done, 0 where nothing fits."""
        before = [item.state() for item in self._collectors]
        try:
            with self._file.open("rb") as stream, NpzFile(stream) as arrays:
                if str(arrays["key"]) != self._key:
                    return 0
                states: list[dict[str, NDArray[Any]]] = [{} for _ in before]
                for entry in arrays.files:
                    index, _, field = entry.partition(".")
                    if field:
                        states[int(index)][field] = arrays[entry]
                done = int(arrays["done"])
            for item, state in zip(self._collectors, states, strict=True):
                item.restore(state)
        except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile):
            # Absent, cut short or foreign: start again, also with those restored already.
            for item, state in zip(self._collectors, before, strict=True):
                item.restore(state)
            return 0
        return done

    def save_if_due(self, done: int, *, last: bool) -> None:
        """Save when the interval is over, or after the last batch."""
        if not last and time.monotonic() - self._saved_at < self._seconds:
            return
        arrays: dict[str, NDArray[Any]] = {"key": np.array(self._key), "done": np.array(done)}
        for index, item in enumerate(self._collectors):
            arrays |= {f"{index}.{field}": array for field, array in item.state().items()}
        content = io.BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]
        write_whole(self._file, [content.getbuffer()])
        self._saved_at = time.monotonic()


def _identity(what: list[Any], batches: Sequence[Feeds]) -> str:
    digest = hashlib.sha256(json.dumps([_VERSION, *what]).encode())
    for batch in batches:
        for name in sorted(batch):
            array = np.ascontiguousarray(batch[name])
            digest.update(json.dumps([name, str(array.dtype), array.shape]).encode())
            digest.update(array.tobytes())
    return digest.hexdigest()
