"""Runs an fp32 graph over calibration batches and collects statistics of values inside it.

The wanted values become outputs of the graph in memory: nothing is written beside the model, and
weights that lie in a data file stay there. All tensors are observed in one pass. Batches are cut
so that what comes out of a run stays within a number of bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from calibration.calibration_error import CalibrationError
from calibration.collectors import StatisticsCollector, TensorStatistics
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
    found = _find(model, graph, tensors)
    collectors = {name: StatisticsCollector(name, sample_rows) for name in found}
    state = StateFile(resume, collectors, sample_rows, batches) if resume else None
    done = state.load() if state else 0
    progress(done, len(batches))
    if done < len(batches):
        added = [name for name, value in found.items() if not value.is_graph_output()]
        run = open_graph(model, _with_outputs(model, added))
        runner = _Runner(run, {value.name for value in graph.inputs}, list(collectors), run_bytes)
        for count, batch in enumerate(batches[done:], done + 1):
            for mask, values in runner.runs(batch):
                for (name, value), array in zip(found.items(), values, strict=True):
                    collectors[name].update(_rows(value, array, mask))
            if state:
                state.save_if_due(count, last=count == len(batches))
            progress(count, len(batches))
    return {name: item.result() for name, item in collectors.items()}


def _find(model: Path, graph: ir.Graph, tensors: Sequence[str]) -> dict[str, ir.Value]:
    made = {value.name: value for node in graph for value in node.outputs}
    found = {}
    for name in tensors:
        value = made.get(name)
        if value is None:
            raise CalibrationError(f"{model}: the main graph computes no value named {name!r}")
        if value.dtype not in (None, ir.DataType.FLOAT):
            raise CalibrationError(f"{model}: {name!r} is not float32, so that it has no scale")
        found[name] = value
    return found


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


def _rows(value: ir.Value, array: Floats, mask: Ids | None) -> Floats:
    """`(n, C)` without padding."""
    if array.dtype != np.float32:
        raise CalibrationError(f"{value.name!r} is {array.dtype}, not float32")
    shape = value.shape
    has_channels = shape is None or (len(shape) > 0 and isinstance(shape[-1], int))
    if not has_channels or array.ndim == 0:
        return array.reshape(-1, 1)
    rows = array.reshape(-1, array.shape[-1])
    if array.ndim < 3 or mask is None or len(rows) != mask.size:
        return rows
    valid = mask.reshape(-1) != 0
    return rows if valid.all() else rows[valid]
