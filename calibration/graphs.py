"""An fp32 graph as calibration sees it: read, given nodes, run by whoever opens it.

Calibration has no runtime of its own: its caller gives it a function that opens graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.calibration_error import CalibrationError

Ids: TypeAlias = NDArray[np.int64]
Feeds: TypeAlias = Mapping[str, Ids]
"""Inputs by name, the first axis being the batch."""
Run: TypeAlias = Callable[[Sequence[str], Feeds], list[Any]]
"""Runs an open graph: the values of the named outputs, in their order."""
OpenGraph: TypeAlias = Callable[[Path, bytes], Run]
"""Opens a serialized graph, made from the model of that path, whose weights may lie in a data file
beside it."""


def load(path: Path) -> ir.Model:
    """The graph of an ONNX file, external data unread; a CalibrationError says that it is none."""
    try:
        return ir.load(path)
    except FileNotFoundError:
        raise CalibrationError(f"{path}: no such file") from None
    except Exception as error:  # protobuf's own errors have no public base
        raise CalibrationError(f"{path}: not an ONNX file") from error


def put_before(
    node: ir.Node, model: ir.Model, new: ir.Node, name: str, shaped: ir.Value, typed: ir.Value
) -> ir.Value:
    """Insert a node; its output gets a name, the shape of one value and the type of another."""
    output = new.outputs[0]
    output.name, output.shape, output.type = name, shaped.shape, typed.type
    model.graph.insert_before(node, [new])
    return output
