"""A graph without local functions: each call replaced by the function's body.

For runtimes that know neither the operator nor local functions, such as OpenVINO. Weights are not
copied on the way: they leave the graph before and come back after.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.inliner

from exporter.errors import InputError


def inlined(path: Path) -> onnx.ModelProto:
    """The graph of a file with its functions inlined; as it is when it has none.

    External data stays outside. Its location becomes absolute, so that the result can be read
    from memory, by a runtime that takes such a path.

    Args:
        path: the .onnx file.

    Raises:
        InputError: the file is missing or not an ONNX file.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; build the artifact again")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own errors have no public base
        raise InputError(f"{path}: not an ONNX file ({error}); build it again") from error
    weights: dict[str, bytes] = {}
    for tensor in model.graph.initializer:
        weights[tensor.name] = tensor.raw_data
        tensor.ClearField("raw_data")
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = str(_inside(path, entry.value))
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    for tensor in model.graph.initializer:
        if weights.get(tensor.name):
            tensor.raw_data = weights.pop(tensor.name)
    return model


def _inside(path: Path, location: str) -> Path:
    """The absolute path of external data, which must lie in the folder of its graph."""
    folder = path.resolve().parent
    data = (folder / location).resolve()
    if not data.is_relative_to(folder):
        raise InputError(f"{path}: its external data {location!r} lies outside its folder")
    if not data.is_file():
        raise InputError(f"{data}: no such file; it holds the weights of {path.name}")
    return data
