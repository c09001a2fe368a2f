"""The range of every float value that an ONNX graph computes, measured on batches.

The graph is run in memory with two reductions behind each value, so what comes out of a run is two
numbers a value, whatever the batch; nothing is written. Local functions are expanded first, so the
values inside them are measured for each call.

Padded positions count. A runtime computes them like any other, and a value that overflows there
reaches the valid positions: its attention probability is 0, and 0 times infinity is NaN.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper
from onnx_ir.passes.common import InlinePass, ShapeInferencePass

from calibration.calibration_error import CalibrationError
from calibration.graphs import Feeds, OpenGraph, load

# Names of what is added; no value of a graph is called so.
_LOWEST, _HIGHEST = "deb_export.lowest:", "deb_export.highest:"


@dataclass(frozen=True)
class ValueRange:
    """Smallest and largest element of a value over all batches, padded positions included."""

    minimum: float
    maximum: float

    @property
    def absmax(self) -> float:
        return max(abs(self.minimum), abs(self.maximum))


def measure_ranges(
    model: Path,
    batches: Iterable[Feeds],
    open_graph: OpenGraph,
    *,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, ValueRange]:
    """The range of each float value that a graph computes on batches, each of which is used once.

    Values of the main graph have their own names, those inside local functions `inner_name`.

    Args:
        model: fp32 ONNX file; external data lies beside it.
        open_graph: opens the graph; its errors come through as they are.
        progress: called with the number of batches done.

    Raises:
        CalibrationError: no batch, no such file, or NaN in a value.
    """
    graph = load(model)
    _expand_functions(graph)
    ShapeInferencePass()(graph)
    inputs = {value.name for value in graph.graph.inputs}
    names = [
        output.name
        for node in graph.graph
        for output in node.outputs
        if node.op_type != "Constant" and output.dtype == ir.DataType.FLOAT and output.name
    ]
    run = open_graph(model, _reduced(graph, names))
    del graph
    wanted = [prefix + name for name in names for prefix in (_LOWEST, _HIGHEST)]
    low, high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    done = 0
    for done, batch in enumerate(batches, 1):
        feeds = {name: ids for name, ids in batch.items() if name in inputs}
        ends = np.array(run(wanted, feeds), np.float64).reshape(-1, 2)
        broken = np.isnan(ends).any(axis=1)
        if broken.any():
            reason = f"{names[broken.argmax()]!r} is NaN in fp32 already; check the checkpoint"
            raise CalibrationError(f"{model}: {reason}")
        low, high = np.minimum(low, ends[:, 0]), np.maximum(high, ends[:, 1])
        progress(done)
    if done == 0:
        raise CalibrationError("there is no calibration text to measure ranges on")
    return dict(zip(names, map(ValueRange, low.tolist(), high.tolist()), strict=True))


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
    """The name of a value inside a local function, by the first output of the call."""
    return f"{call_output}/{name}"


def _reduced(model: ir.Model, names: Iterable[str]) -> bytes:
    """The graph with the ends of each value as its outputs, of pieces that protobuf merges."""
    weights = list(model.graph.initializers.values())
    model.graph.initializers.clear()
    proto = ir.to_proto(model)
    # The graph's own outputs may be large, and their ranges are measured like any other's.
    proto.graph.ClearField("output")
    for name in names:
        for op_type, prefix in (("ReduceMin", _LOWEST), ("ReduceMax", _HIGHEST)):
            end = prefix + name
            proto.graph.node.append(helper.make_node(op_type, [name], [end], keepdims=0))
            output = helper.make_tensor_value_info(end, onnx.TensorProto.FLOAT, [])
            proto.graph.output.append(output)
    content = io.BytesIO()
    content.write(proto.SerializeToString())
    for value in weights:
        if value.const_value is not None:
            piece = onnx.ModelProto()
            piece.graph.initializer.append(ir.to_proto(value.const_value))
            content.write(piece.SerializeToString())
    return content.getvalue()
