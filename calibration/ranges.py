"""The range of every float value that an ONNX graph computes, measured on batches.

The graph is run in memory with two reductions behind each value, so what comes out of a run is two
numbers a value, whatever the batch; nothing is written. Local functions are expanded first, so the
values inside them are measured for each call.

Padded positions count. A runtime computes them like any other, and a value that overflows there
reaches the valid positions: its attention probability is 0, and 0 times infinity is NaN.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import InlinePass, ShapeInferencePass

from calibration.errors import CalibrationError
from calibration.session import CalibrationSession

Feeds = Mapping[str, NDArray[np.int64]]
Progress = Callable[[int], None]

_FLOAT = onnx.TensorProto.FLOAT
# Names of what is added; no value of a graph is called so.
_LOWEST, _HIGHEST = "deb_export.lowest:", "deb_export.highest:"


@dataclass(frozen=True)
class ValueRange:
    """Smallest and largest element of a value over all batches, padded positions included."""

    minimum: float
    maximum: float

    @property
    def absmax(self) -> float:
        """Largest magnitude."""
        return max(abs(self.minimum), abs(self.maximum))

    def __or__(self, other: ValueRange) -> ValueRange:
        """The range of both."""
        return ValueRange(min(self.minimum, other.minimum), max(self.maximum, other.maximum))


def measure_ranges(
    model: Path,
    batches: Iterable[Feeds],
    *,
    progress: Progress | None = None,
    threads: int | None = None,
) -> dict[str, ValueRange]:
    """Run a graph over batches and return the range of each float value that it computes.

    Values of the main graph have their own names, those inside local functions `inner_name`.

    Args:
        model: fp32 ONNX file; external data lies beside it.
        batches: int64 inputs by name, each used once.
        progress: called with the number of batches done.
        threads: threads inside an operator; None leaves the choice to ONNX Runtime.

    Raises:
        CalibrationError: no batch, no such file, a model that ONNX Runtime cannot run, or NaN in
            a value.
    """
    names, runner = _prepare(model, threads)
    report = progress or (lambda done: None)
    ranges: dict[str, ValueRange] = {}
    done = 0
    for done, feeds in enumerate(batches, 1):
        for name, found in zip(names, runner.run(feeds), strict=True):
            ranges[name] = ranges[name] | found if name in ranges else found
        report(done)
    if done == 0:
        raise CalibrationError("there is no calibration text to measure ranges on")
    return ranges


def _prepare(model: Path, threads: int | None) -> tuple[list[str], _Runner]:
    """The names of the values to measure, and a session that measures them."""
    try:
        graph_model = ir.load(model)
    except FileNotFoundError:
        raise CalibrationError(f"{model}: no such file") from None
    except Exception as error:  # protobuf's own errors have no public base
        raise CalibrationError(f"{model}: not an ONNX file") from error
    _expand_functions(graph_model)
    ShapeInferencePass()(graph_model)
    names = list(_computed_floats(graph_model.graph))
    content = io.BytesIO()
    for piece in _serialized(graph_model, names):
        content.write(piece)
    del graph_model  # and its weights, before the session reads them from the bytes
    return names, _Runner(model, content.getvalue(), names, threads)


def _expand_functions(model: ir.Model) -> None:
    """Replace each call of a local function by its body, and name what is in it after the call."""
    calls = [(node, model.functions.get(node.op_identifier())) for node in model.graph]
    names = [[output.name or "" for output in call.outputs] for call, _ in calls]
    InlinePass()(model)
    expanded = iter(list(model.graph))
    for given, (_, function) in zip(names, calls, strict=True):
        if function is None:
            next(expanded)
            continue
        results = dict(zip(function.outputs, given, strict=True))
        for inner in function:
            for output, original in zip(next(expanded).outputs, inner.outputs, strict=True):
                name = inner_name(given[0], original.name or "")
                output.name = results.get(original, name)


def inner_name(call_output: str, name: str) -> str:
    """The name under which ranges have a value inside a local function.

    Args:
        call_output: name of the first output of the node that calls the function.
        name: the value's name in the function.
    """
    return f"{call_output}/{name}"


def _computed_floats(graph: ir.Graph) -> Iterator[str]:
    """Names of the fp32 values that nodes of the graph compute, constants left out."""
    for node in graph:
        if node.op_type != "Constant":
            for output in node.outputs:
                if output.dtype == ir.DataType.FLOAT and output.name:
                    yield output.name


def _serialized(model: ir.Model, names: Iterable[str]) -> Iterator[bytes]:
    """The graph with the ends of each value as its outputs, in pieces that protobuf merges."""
    weights = list(model.graph.initializers.values())
    model.graph.initializers.clear()
    proto = ir.to_proto(model)
    # The graph's own outputs may be large, and their ranges are measured like any other's.
    proto.graph.ClearField("output")
    for name in names:
        for op_type, prefix in (("ReduceMin", _LOWEST), ("ReduceMax", _HIGHEST)):
            proto.graph.node.append(
                onnx.helper.make_node(op_type, [name], [prefix + name], keepdims=0)
            )
            proto.graph.output.append(onnx.helper.make_tensor_value_info(prefix + name, _FLOAT, []))
    yield proto.SerializeToString()
    for value in weights:
        if value.const_value is not None:
            piece = onnx.ModelProto()
            piece.graph.initializer.append(ir.to_proto(value.const_value))
            yield piece.SerializeToString()


class _Runner:
    """An ONNX Runtime session over the graph with its reductions."""

    def __init__(self, model: Path, content: bytes, names: list[str], threads: int | None) -> None:
        self._model = model
        self._names = names
        self._session = CalibrationSession(model, content, threads)

    def run(self, batch: Feeds) -> list[ValueRange]:
        """The range of each value for one batch."""
        feeds = {name: ids for name, ids in batch.items() if name in self._session.inputs}
        wanted = [prefix + name for name in self._names for prefix in (_LOWEST, _HIGHEST)]
        ends = [float(end) for end in self._session.run(wanted, feeds)]
        for name, low, high in zip(self._names, ends[::2], ends[1::2], strict=True):
            if np.isnan(low) or np.isnan(high):
                raise CalibrationError(
                    f"{self._model}: {name!r} is NaN in fp32 already; check the checkpoint"
                )
        return [ValueRange(*pair) for pair in zip(ends[::2], ends[1::2], strict=True)]
