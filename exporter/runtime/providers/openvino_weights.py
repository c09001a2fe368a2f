"""Large weights go to OpenVINO as they lie in memory or in their file, not through protobuf.

A graph that is read from memory may not name files outside the current folder, and protobuf ends at
2 GiB. So each large weight becomes an input of the graph, and the input a constant again once
OpenVINO has read the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from exporter.errors import InputError

LARGE_BYTES = 1 << 16
"""Smaller ones stay in the graph: sizes, axes, scales, which are read while it is translated."""

_TYPES = {
    TensorProto.FLOAT: "f32",
    TensorProto.FLOAT16: "f16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.INT8: "i8",
    TensorProto.UINT8: "u8",
    TensorProto.INT32: "i32",
    TensorProto.INT64: "i64",
}


@dataclass(frozen=True, eq=False)
class Weight:
    """A tensor outside its graph: its bytes, OpenVINO's name of its type, its shape."""

    content: NDArray[np.uint8]
    type: str
    shape: tuple[int, ...]


def detach(model: onnx.ModelProto, folder: Path) -> dict[str, Weight]:
    """Make inputs of a graph's large weights, and load the small ones that lie outside the file.

    The model is changed in place; `folder` is where its external data lies. The bytes of the
    weights, by name, are those of the model or of the mapped file.

    Raises:
        InputError: external data is missing, too short, or outside the folder.
    """
    weights: dict[str, Weight] = {}
    kept = []
    for tensor in model.graph.initializer:
        content = _content(tensor, folder)
        if content is not None and len(content) >= LARGE_BYTES and tensor.data_type in _TYPES:
            shape = tuple(tensor.dims)
            weights[tensor.name] = Weight(content, _TYPES[tensor.data_type], shape)
            model.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, shape)
            )
            continue
        if tensor.data_location == TensorProto.EXTERNAL and content is not None:
            tensor.raw_data = content.tobytes()
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
        kept.append(tensor)
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return weights


def attach(model: Any, weights: Mapping[str, Weight]) -> None:
    """Put constants in the place of the inputs that `detach` made of an `openvino.Model`.

    It and what is compiled from it refer to the bytes of `weights`, which must outlive them.
    """
    import openvino

    for parameter in model.get_parameters():
        names = parameter.output(0).get_names() & weights.keys()
        if not names:
            continue
        weight = weights[names.pop()]
        kind = getattr(openvino.Type, weight.type)
        tensor = openvino.Tensor(weight.content, openvino.Shape(weight.shape), kind)
        constant = openvino.op.Constant(tensor, shared_memory=True)
        constant.set_friendly_name(parameter.get_friendly_name())
        parameter.output(0).replace(constant.output(0))
        model.remove_parameter(parameter)
    model.validate_nodes_and_infer_types()


def _content(tensor: TensorProto, folder: Path) -> NDArray[np.uint8] | None:
    """The bytes of a tensor; None where it stores its values in another way."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return np.frombuffer(tensor.raw_data, np.uint8) if tensor.raw_data else None
    place = {entry.key: entry.value for entry in tensor.external_data}
    path = (folder / place["location"]).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise InputError(f"{folder}: external data {place['location']!r} lies outside this folder")
    offset = int(place.get("offset", 0))
    try:
        length = int(place.get("length", path.stat().st_size - offset))
        if offset + length > path.stat().st_size:
            raise InputError(f"{path}: ends before the weight {tensor.name}; build it again")
        if length == 0:
            return np.zeros(0, np.uint8)
        return np.memmap(path, np.uint8, "r", offset, (length,))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); it has the weights") from None
