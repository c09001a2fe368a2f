"""Runs an fp32 graph over calibration batches and collects statistics of values inside it.

The wanted values become outputs of the graph in memory: nothing is written beside the model, and
weights that lie in a data file stay there. All tensors are observed in one pass. Batches are cut
so that what comes out of a run stays within a number of bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.collectors import StatisticsCollector, TensorStatistics
from calibration.errors import CalibrationError
from calibration.resume import Resume, StateFile, observation_key
from calibration.session import CalibrationSession

Mask: TypeAlias = NDArray[np.int64]
Feeds: TypeAlias = Mapping[str, NDArray[np.int64]]
Floats: TypeAlias = NDArray[np.float32]
Progress: TypeAlias = Callable[[int, int], None]

MASK = "attention_mask"
RUN_BYTES = 1 << 28
"""Most bytes of observed values that one run may give, as long as one row allows it."""

_FLOAT = onnx.TensorProto.FLOAT


def observe(
    model: Path,
    tensors: Sequence[str],
    batches: Sequence[Feeds],
    *,
    sample_rows: int = 0,
    progress: Progress | None = None,
    resume: Resume | None = None,
    threads: int | None = None,
    run_bytes: int = RUN_BYTES,
) -> dict[str, TensorStatistics]:
    """Statistics of values of the main graph by name, over all batches.

    Values of shape `(B, S, C)` lose the rows where `attention_mask` is 0. Values of other shapes,
    such as `(B, C)`, keep all rows. A value whose last axis has no fixed size, such as one
    transposed to `(B, C, S)`, counts as one channel with all its rows.

    An interruption leaves nothing but the file of `resume`, which is whole at any time.

    Args:
        model: fp32 ONNX file; external data lies beside it.
        tensors: names of float values of the main graph.
        batches: inputs by name, the first axis being the batch.
        sample_rows: rows of each tensor to keep as they are.
        progress: called with the number of batches done and the number there are.
        resume: keeps what was collected in a file and goes on from it.
        threads: threads inside an operator; None leaves the choice to ONNX Runtime.
        run_bytes: a batch is cut into runs that give at most these bytes of values, or one row.

    Raises:
        CalibrationError: no batch, a tensor that the graph does not have or that is not float, NaN
            or infinity in a tensor, or a model that ONNX Runtime cannot run.
        OSError: the file of `resume` cannot be written.
    """
    if not batches:
        raise CalibrationError("there is no calibration text to observe")
    probes = _find(model, tensors)
    collectors = {probe.name: StatisticsCollector(probe.name, sample_rows) for probe in probes}
    state = None
    if resume:
        key = observation_key(resume, list(collectors), sample_rows, batches)
        state = StateFile(resume, key)
    done = state.load(collectors) if state else 0
    report = progress or (lambda done, total: None)
    report(done, len(batches))
    if done < len(batches):
        runner = _Runner(model, probes, threads, run_bytes)
        for index in range(done, len(batches)):
            for mask, values in runner.runs(batches[index]):
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
        added = [probe.name for probe in probes if not probe.is_output]
        self._session = CalibrationSession(model, _with_outputs(model, added), threads)

    def runs(self, batch: Feeds) -> Iterator[tuple[Mask | None, list[Floats]]]:
        """Attention mask and values of each part of the batch."""
        feeds = {name: ids for name, ids in batch.items() if name in self._session.inputs}
        rows = {len(ids) for ids in batch.values()}
        if len(rows) != 1:
            raise ValueError(f"inputs of {sorted(rows)} rows in one batch")
        start, end = 0, rows.pop()
        while start < end:
            part = slice(start, start + self._rows_per_run(feeds))
            values: list[Floats] = self._session.run(
                self._names, {name: ids[part] for name, ids in feeds.items()}
            )
            tokens = max(ids[part].size for ids in feeds.values())
            size = sum(value.nbytes for value in values)
            self._bytes_per_token = max(self._bytes_per_token, size / tokens)
            yield (batch[MASK][part] if MASK in batch else None), values
            start = part.stop

    def _rows_per_run(self, batch: Feeds) -> int:
        """One row at first, to learn the size of the values."""
        if self._bytes_per_token == 0:
            return 1
        tokens = max(ids[0].size for ids in batch.values())
        return max(1, int(self._run_bytes // (self._bytes_per_token * tokens)))


def _with_outputs(model: Path, added: Sequence[str]) -> bytes:
    """The model with more outputs: protobuf merges concatenated messages."""
    extra = onnx.ModelProto()
    for name in added:
        extra.graph.output.add(name=name).type.tensor_type.elem_type = _FLOAT
    addition: bytes = extra.SerializeToString()
    return model.read_bytes() + addition


def _rows(probe: _Probe, value: Floats, mask: Mask | None) -> Floats:
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
