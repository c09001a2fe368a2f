"""Runs an fp32 graph over calibration batches and collects statistics of values inside it.

The wanted values become outputs of the graph in memory: nothing is written beside the model, and
weights that lie in a data file stay there. All tensors are observed in one pass. Batches are cut
so that what comes out of a run stays within a number of bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.collectors import (
    Collector,
    RangeCollector,
    StatisticsCollector,
    TensorRange,
    TensorStatistics,
)
from calibration.errors import CalibrationError

Feeds = Mapping[str, NDArray[np.int64]]
Progress = Callable[[int, int], None]
T = TypeVar("T")

MASK = "attention_mask"
RUN_BYTES = 1 << 28
"""Most bytes of observed values that one run may give, as long as one row allows it."""
SAVE_SECONDS = 15.0

_STATE_VERSION = 1
_FLOAT = onnx.TensorProto.FLOAT


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


def observe(
    model: Path,
    tensors: Sequence[str],
    batches: Sequence[Feeds],
    *,
    progress: Progress | None = None,
    resume: Resume | None = None,
    threads: int | None = None,
) -> dict[str, TensorStatistics]:
    """Histogram, range and per-channel statistics of values of the main graph, by name.

    See `collect` for the arguments and errors.
    """
    return collect(
        model,
        tensors,
        batches,
        StatisticsCollector,
        progress=progress,
        resume=resume,
        threads=threads,
    )


def observe_ranges(
    model: Path,
    tensors: Sequence[str],
    batches: Sequence[Feeds],
    *,
    progress: Progress | None = None,
    resume: Resume | None = None,
    threads: int | None = None,
) -> dict[str, TensorRange]:
    """Only the ranges of values of the main graph, by name: cheaper where there are many.

    See `collect` for the arguments and errors.
    """
    return collect(
        model,
        tensors,
        batches,
        RangeCollector,
        progress=progress,
        resume=resume,
        threads=threads,
    )


def collect(
    model: Path,
    tensors: Sequence[str],
    batches: Sequence[Feeds],
    collector: Callable[[str], Collector[T]],
    *,
    progress: Progress | None = None,
    resume: Resume | None = None,
    threads: int | None = None,
    run_bytes: int = RUN_BYTES,
) -> dict[str, T]:
    """Run the model over the batches, feeding one collector per tensor, and return the results.

    Values of shape `(B, S, C)` lose the rows where `attention_mask` is 0. Values of other shapes,
    such as `(B, C)` or `(B, C, S)`, keep all rows. A value whose last axis has no fixed size, such
    as one transposed to `(B, C, S)`, counts as one channel.

    Args:
        model: fp32 ONNX file; external data lies beside it.
        tensors: names of float values of the main graph.
        batches: inputs by name, the first axis being the batch.
        collector: makes the collector of a tensor, given its name.
        progress: called with the number of batches done and the number there are.
        resume: keeps what was collected in a file and goes on from it.
        threads: threads inside an operator; None leaves the choice to ONNX Runtime.
        run_bytes: a batch is cut so that a run gives at most these bytes of values.

    Raises:
        CalibrationError: no batch, a tensor that the graph does not have or that is not float, NaN
            or infinity in a tensor, or a model that ONNX Runtime cannot run.
    """
    if not batches:
        raise CalibrationError("there is no calibration text to observe")
    probes = _find(model, tensors)
    collectors = {name: collector(name) for name in tensors}
    state = _StateFile(resume, _key(resume, collectors, batches)) if resume else None
    done = state.load(collectors) if state else 0
    report = progress or (lambda done, total: None)
    report(done, len(batches))
    if done < len(batches):
        runner = _Runner(model, probes, threads, run_bytes)
        for index in range(done, len(batches)):
            for feeds, values in runner.runs(batches[index]):
                mask = feeds.get(MASK)
                for probe, value in zip(probes, values, strict=True):
                    collectors[probe.name].update(_rows(probe, value, mask))
            if state:
                state.save_if_due(collectors, index + 1, last=index + 1 == len(batches))
            report(index + 1, len(batches))
    return {name: item.result() for name, item in collectors.items()}


@dataclass(frozen=True)
class _Probe:
    """A value to observe: whether it is an output already, and whether its last axis is fixed."""

    name: str
    is_output: bool
    has_channels: bool


def _find(model: Path, tensors: Sequence[str]) -> list[_Probe]:
    """Where the graph has the tensors; CalibrationError names those that it has not."""
    try:
        graph = onnx.load(str(model), load_external_data=False).graph
    except FileNotFoundError:
        raise CalibrationError(f"{model}: no such file") from None
    except Exception as error:  # protobuf's own errors have no public base
        raise CalibrationError(f"{model}: not an ONNX file") from error
    known = {info.name: info.type.tensor_type for info in (*graph.value_info, *graph.output)}
    made = {name for node in graph.node for name in node.output}
    outputs = {info.name for info in graph.output}
    probes = []
    for name in dict.fromkeys(tensors):
        if name not in made:
            raise CalibrationError(f"{model}: the main graph computes no value named {name!r}")
        kind = known.get(name)
        if kind is not None and kind.elem_type != _FLOAT:
            raise CalibrationError(f"{model}: {name!r} is not float32, so that it has no scale")
        dims = kind.shape.dim if kind is not None and kind.HasField("shape") else None
        fixed = dims is None or (len(dims) > 0 and dims[-1].HasField("dim_value"))
        probes.append(_Probe(name, name in outputs, fixed))
    return probes


class _Runner:
    """An ONNX Runtime session that gives the probed values, for parts of a batch."""

    def __init__(
        self, model: Path, probes: Sequence[_Probe], threads: int | None, run_bytes: int
    ) -> None:
        self._names = [probe.name for probe in probes]
        self._run_bytes = run_bytes
        self._bytes_per_token = 0.0
        self._model = model
        added = [probe.name for probe in probes if not probe.is_output]
        self._session = _open(model, added, threads)
        self._inputs = {item.name for item in self._session.get_inputs()}

    def runs(self, batch: Feeds) -> Iterator[tuple[Feeds, list[NDArray[np.float32]]]]:
        """Inputs and values of each part of the batch."""
        rows = len(next(iter(batch.values())))
        start = 0
        while start < rows:
            end = start + self._rows_per_run(batch)
            feeds = {name: ids[start:end] for name, ids in batch.items() if name in self._inputs}
            values = self._run(feeds)
            tokens = max(ids.size for ids in feeds.values())
            size = sum(value.nbytes for value in values)
            self._bytes_per_token = max(self._bytes_per_token, size / tokens)
            yield feeds, values
            start = end

    def _rows_per_run(self, batch: Feeds) -> int:
        """One row at first, to learn the size of the values."""
        if self._bytes_per_token == 0:
            return 1
        tokens = max(ids[0].size for ids in batch.values())
        return max(1, int(self._run_bytes // (self._bytes_per_token * tokens)))

    def _run(self, feeds: Feeds) -> list[NDArray[np.float32]]:
        try:
            values: list[NDArray[np.float32]] = self._session.run(self._names, dict(feeds))
        except Exception as error:
            if not _from_runtime(error):
                raise
            shapes = {name: ids.shape for name, ids in feeds.items()}
            raise CalibrationError(
                f"{self._model}: ONNX Runtime fails on inputs of shape {shapes}: {_line(error)}"
            ) from error
        return values


def _open(model: Path, added: Sequence[str], threads: int | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; they are raised as well
    # Lengths vary: a plan per shape would be kept for each of them.
    options.enable_mem_pattern = False
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(model.resolve().parent)
    )
    if threads is not None:
        options.intra_op_num_threads = threads
    # Protobuf merges concatenated messages: this adds outputs and touches nothing else.
    extra = onnx.ModelProto()
    for name in added:
        extra.graph.output.add(name=name).type.tensor_type.elem_type = _FLOAT
    try:
        return onnxruntime.InferenceSession(
            model.read_bytes() + extra.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
        )
    except Exception as error:
        if not _from_runtime(error):
            raise
        raise CalibrationError(f"{model}: ONNX Runtime cannot load it: {_line(error)}") from error


def _from_runtime(error: Exception) -> bool:
    """Whether ONNX Runtime itself raised it: its exceptions have no common public base."""
    return isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime")


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _rows(
    probe: _Probe, value: NDArray[np.float32], mask: NDArray[np.int64] | None
) -> NDArray[np.float32]:
    """`(n, C)` without padding."""
    if value.dtype != np.float32:
        raise CalibrationError(f"{probe.name!r} is {value.dtype}, not float32")
    if not probe.has_channels or value.ndim == 0:
        return value.reshape(-1, 1)
    rows = value.reshape(-1, value.shape[-1])
    if value.ndim < 3 or mask is None or len(rows) != mask.size:
        return rows
    valid = mask.reshape(-1) != 0
    return rows if valid.all() else rows[valid]


def _key(resume: Resume, collectors: Mapping[str, Collector[Any]], batches: Sequence[Feeds]) -> str:
    """Identity of an observation: the model, the tensors, how they are collected, the batches."""
    kinds = {name: type(item).__name__ for name, item in collectors.items()}
    digest = hashlib.sha256(json.dumps([_STATE_VERSION, resume.model_hash, kinds]).encode())
    for batch in batches:
        for name in sorted(batch):
            array = np.ascontiguousarray(batch[name])
            digest.update(json.dumps([name, str(array.dtype), array.shape]).encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


class _StateFile:
    """The collectors' state on disk, written whole or not at all."""

    def __init__(self, resume: Resume, key: str) -> None:
        self._file = resume.file
        self._seconds = resume.seconds
        self._key = key
        self._saved_at = time.monotonic()

    def load(self, collectors: Mapping[str, Collector[Any]]) -> int:
        """Restore the collectors; the number of batches done, 0 where nothing fits."""
        before = {name: item.state() for name, item in collectors.items()}
        try:
            with np.load(self._file, allow_pickle=False) as arrays:
                if str(arrays["key"]) != self._key:
                    return 0
                states: dict[str, dict[str, NDArray[Any]]] = {name: {} for name in collectors}
                names = list(collectors)
                for entry in arrays.files:
                    index, _, field = entry.partition(".")
                    if field:
                        states[names[int(index)]][field] = arrays[entry]
                done = int(arrays["done"])
            for name, item in collectors.items():
                item.restore(states[name])
        except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile):
            # Absent, cut short or foreign: start again, also with those restored already.
            for name, item in collectors.items():
                item.restore(before[name])
            return 0
        return done

    def save_if_due(
        self, collectors: Mapping[str, Collector[Any]], done: int, *, last: bool
    ) -> None:
        """Save when the interval is over, or after the last batch."""
        if not last and time.monotonic() - self._saved_at < self._seconds:
            return
        arrays: dict[str, NDArray[Any]] = {"key": np.array(self._key), "done": np.array(done)}
        for index, item in enumerate(collectors.values()):
            for field, array in item.state().items():
                arrays[f"{index}.{field}"] = array
        partial = self._file.with_name(self._file.name + ".partial")
        try:
            with partial.open("wb") as stream:
                np.savez(stream, **arrays)  # type: ignore[arg-type]
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(self._file)
        finally:
            partial.unlink(missing_ok=True)
        self._saved_at = time.monotonic()
