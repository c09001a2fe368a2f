"""The range of every float value that an ONNX graph computes, measured on batches.

The graph is run in memory with two reductions behind each value, so what comes out of a run is two
numbers a value, whatever the batch; nothing is written. Local functions are expanded first, so the
values inside them are measured for each call.

Padded positions count. A runtime computes them like any other, and a value that overflows there
reaches the valid positions: its attention probability is 0, and 0 times infinity is NaN.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, ShapeInferencePass

from calibration.errors import CalibrationError
from calibration.graphs import Feeds, OpenGraph, load

Progress = Callable[[int], None]

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
    open_graph: OpenGraph,
    *,
    progress: Progress | None = None,
) -> dict[str, ValueRange]:
    """Run a graph over batches and return the range of each float value that it computes.

    Values of the main graph have their own names, those inside local functions `inner_name`.

    Args:
        model: fp32 ONNX file; external data lies beside it.
        batches: int64 inputs by name, each used once.
        open_graph: opens the graph; its errors come through as they are.
        progress: called with the number of batches done.

    Raises:
        CalibrationError: no batch, no such file, or NaN in a value.
    """
    inputs, names, content = _reduced(load(model))
    run = open_graph(model, content)
    del content
    wanted = [prefix + name for name in names for prefix in (_LOWEST, _HIGHEST)]
    report = progress or (lambda done: None)
    ranges: dict[str, ValueRange] = {}
    done = 0
    for done, batch in enumerate(batches, 1):
        feeds = {name: ids for name, ids in batch.items() if name in inputs}
        ends = [float(end) for end in run(wanted, feeds)]
        for name, low, high in zip(names, ends[::2], ends[1::2], strict=True):
            if np.isnan(low) or np.isnan(high):
                raise CalibrationError(
                    f"{model}: {name!r} is NaN in fp32 already; check the checkpoint"
                )
            found = ValueRange(low, high)
            ranges[name] = ranges[name] | found if name in ranges else found
        report(done)
    if done == 0:
        raise CalibrationError("there is no calibration text to measure ranges on")
    return ranges


def _reduced(model: ir.Model) -> tuple[set[str | None], list[str], bytes]:
    """Names of the inputs and of the values to measure, and the graph that measures them."""
    _expand_functions(model)
    ShapeInferencePass()(model)
    names = list(_computed_floats(model.graph))
    content = io.BytesIO()
    for piece in _serialized(model, names):
        content.write(piece)
    return {value.name for value in model.graph.inputs}, names, content.getvalue()


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
            proto.graph.output.append(
                onnx.helper.make_tensor_value_info(prefix + name, onnx.TensorProto.FLOAT, [])
            )
    yield proto.SerializeToString()
    for value in weights:
        if value.const_value is not None:
            piece = onnx.ModelProto()
            piece.graph.initializer.append(ir.to_proto(value.const_value))
            yield piece.SerializeToString()
