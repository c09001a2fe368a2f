"""A graph without local functions: each call replaced by the function's body.

For runtimes that know neither the operator nor local functions, such as OpenVINO.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.inliner

from exporter.artifact.onnx_file import open_onnx
from exporter.errors import InputError


def inlined(path: Path) -> onnx.ModelProto:
    """The graph of a .onnx file with its functions inlined; external data stays outside.

    Raises:
        InputError: the file is missing or not an ONNX file.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; build the artifact again")
    model = open_onnx(path)
    if not model.functions:
        return model
    # The inliner copies the graph a few times: the weights leave it before and come back after.
    weights: dict[str, bytes] = {}
    for tensor in model.graph.initializer:
        weights[tensor.name] = tensor.raw_data
        tensor.ClearField("raw_data")
    model = onnx.inliner.inline_local_functions(model)
    for tensor in model.graph.initializer:
        if content := weights.pop(tensor.name, b""):
            tensor.raw_data = content
    return model
