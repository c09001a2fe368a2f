"""Runs an fp32 graph over calibration batches and collects statistics of values inside it.

The wanted values become outputs of the graph in memory: nothing is written beside the model, and
weights that lie in a data file stay there. All tensors are observed in one pass. Batches are cut
so that what comes out of a run stays within a number of bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from calibration.collectors import StatisticsCollector, TensorStatistics
from calibration.errors import CalibrationError
from calibration.formats import Floats
from calibration.graphs import Feeds, Ids, OpenGraph, Run, load
from calibration.resume import Resume, StateFile

MASK = "attention_mask"
RUN_BYTES = 1 << 28
"""Most bytes of observed values that one run may give, as long as one row allows it."""


def observe(
    model: Path,
    tensors: Sequence[str],
    batches: Sequence[Feeds],
    open_graph: OpenGraph,
    *,
    sample_rows: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
    resume: Resume | None = None,
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
        batches: inputs of the graph.
        open_graph: opens the graph; its errors come through as they are.
        sample_rows: rows of each tensor to keep as they are.
        progress: called with the number of batches done and the number there are.
        resume: keeps what was collected in a file and goes on from it.
        run_bytes: a batch is cut into runs that give at most these bytes of values, or one row.

    Raises:
        CalibrationError: no batch, a tensor that the graph does not have or that is not float, or
            NaN or infinity in a tensor.
        OSError: the file of `resume` cannot be written.
    """
    if not batches:
        raise CalibrationError("there is no calibration text to observe")
    graph = load(model).graph
    probes = _find(model, graph, tensors)
    collectors = {probe.name: StatisticsCollector(probe.name, sample_rows) for probe in probes}
    state = StateFile(resume, collectors, sample_rows, batches) if resume else None
    done = state.load() if state else 0
    progress(done, len(batches))
    if done < len(batches):
        run = open_graph(model, _with_outputs(model, [p.name for p in probes if not p.is_output]))
        runner = _Runner(run, {value.name for value in graph.inputs}, list(collectors), run_bytes)
        for count, batch in enumerate(batches[done:], done + 1):
            for mask, values in runner.runs(batch):
                for probe, value in zip(probes, values, strict=True):
                    collectors[probe.name].update(_rows(probe, value, mask))
            if state:
                state.save_if_due(count, last=count == len(batches))
            progress(count, len(batches))
    return {name: item.result() for name, item in collectors.items()}


@dataclass(frozen=True)
class _Probe:
    """A value to observe: whether it is an output already, and whether its last axis is fixed."""

    name: str
    is_output: bool
    has_channels: bool


def _find(model: Path, graph: ir.Graph, tensors: Sequence[str]) -> list[_Probe]:
    made = {value.name: value for node in graph for value in node.outputs}
    probes = []
    for name in dict.fromkeys(tensors):
        value = made.get(name)
        if value is None:
            raise CalibrationError(f"{model}: the main graph computes no value named {name!r}")
        if value.dtype not in (None, ir.DataType.FLOAT):
            raise CalibrationError(f"{model}: {name!r} is not float32, so that it has no scale")
        shape = value.shape
        fixed = shape is None or (len(shape) > 0 and isinstance(shape[-1], int))
        probes.append(_Probe(name, value.is_graph_output(), fixed))
    return probes


def _with_outputs(model: Path, added: Sequence[str]) -> bytes:
    """The model with more outputs: protobuf merges concatenated messages."""
    extra = onnx.ModelProto()
    for name in added:
        extra.graph.output.add(name=name).type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return model.read_bytes() + bytes(extra.SerializeToString())


class _Runner:
    """Runs parts of a batch, so large that the values named stay within `run_bytes`."""

    def __init__(
        self, run: Run, inputs: set[str | None], names: Sequence[str], run_bytes: int
    ) -> None:
        self._run, self._inputs, self._names, self._run_bytes = run, inputs, names, run_bytes
        self._bytes_per_token = 0.0

    def runs(self, batch: Feeds) -> Iterator[tuple[Ids | None, list[Floats]]]:
        """Attention mask and values of each part of the batch."""
        feeds = {name: ids for name, ids in batch.items() if name in self._inputs}
        rows = {len(ids) for ids in batch.values()}
        if len(rows) != 1:
            raise ValueError(f"inputs of {sorted(rows)} rows in one batch")
        tokens = max(ids[0].size for ids in feeds.values())  # of a row
        start, end = 0, rows.pop()
        while start < end:
            count = 1  # at first, to learn the size of the values
            if self._bytes_per_token:
                count = max(1, int(self._run_bytes // (self._bytes_per_token * tokens)))
            part = slice(start, min(start + count, end))
            given = {name: ids[part] for name, ids in feeds.items()}
            values: list[Floats] = self._run(self._names, given)
            size = sum(value.nbytes for value in values) / (tokens * (part.stop - start))
            self._bytes_per_token = max(self._bytes_per_token, size)
            yield (batch[MASK][part] if MASK in batch else None), values
            start = part.stop


def _rows(probe: _Probe, value: Floats, mask: Ids | None) -> Floats:
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
