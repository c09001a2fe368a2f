"""Writes a graph to disk one tensor at a time, so that the weights are never held together.

A protobuf message may hold its fields in any order: the graph's initializers are appended to the
rest of it as they are made. See https://protobuf.dev/programming-guides/encoding/ and `onnx.proto`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir

from exporter.errors import InputError

Progress = Callable[[int, int], None]
Tensors = list[ir.TensorProtocol]

EXTERNAL_ABOVE = 1 << 30
"""Bytes of weights from which they go to a file beside the graph: protobuf ends at 2 GiB."""
EMBEDDED_UP_TO = (1 << 31) - (1 << 20)
"""Bytes of weights that fit into a graph's own file, with some room for the rest of it."""
_ALIGNMENT = 4096  # lets a runtime map a tensor instead of copying it
EMBEDDED_BELOW = 1024
"""Bytes of a tensor that stays in the graph in any case, where shape inference reads it."""


def write_model(
    model: ir.Model, path: Path, external_data: bool | None = None, progress: Progress | None = None
) -> tuple[tuple[Path, ...], int]:
    """Write a model, evaluating each lazy initializer once and letting go of it.

    Returns the files and the bytes of all weights.

    Args:
        external_data: whether weights go to `<path>.data`; by default, when they exceed 1 GiB.
        progress: called with the bytes written and the bytes there are.

    Raises:
        InputError: an initializer's source is broken, or a file would be too large for the weights.
        OSError: the disk is full or not writable. No file is left behind.
    """
    data = path.with_name(path.name + ".data")
    tensors = [tensor_of(value) for value in model.graph.initializers.values()]
    total = sum(tensor.nbytes for tensor in tensors)
    outside = total > EXTERNAL_ABOVE if external_data is None else external_data
    if total >= EMBEDDED_UP_TO and not outside:
        raise InputError(
            f"{path.name}: {total / (1 << 30):.1f} GiB of weights, and a file that holds them ends "
            "at 2 GiB (protobuf); leave out --no-external-data"
        )
    proto = skeleton(model)
    try:
        if outside:
            with data.open("wb") as stream:
                entries = _write_external(tensors, stream, data.name, progress)
                proto.graph.initializer.extend(entries)
                _flush(stream)
        with path.open("wb") as stream:
            if outside:
                stream.write(proto.SerializeToString())
            else:
                _write_embedded(proto, tensors, stream, progress)
            _flush(stream)
    except BaseException:
        # An interrupted file parses as far as it goes: nobody should find it.
        path.unlink(missing_ok=True)
        data.unlink(missing_ok=True)
        raise
    return (path, data) if outside else (path,), total


def tensor_of(value: ir.Value) -> ir.TensorProtocol:
    """The content of an initializer, or `ValueError` where it has none."""
    if value.const_value is None:
        raise ValueError(f"initializer {value.name} has no value")
    return value.const_value


def skeleton(model: ir.Model) -> onnx.ModelProto:
    """The model without its initializers."""
    held = dict(model.graph.initializers)
    model.graph.initializers.clear()
    try:
        return ir.to_proto(model)
    finally:
        for value in held.values():
            model.graph.initializers.add(value)


def _write_embedded(
    proto: onnx.ModelProto, tensors: Tensors, stream: IO[bytes], progress: Progress | None
) -> None:
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    starts = [_embedded_start(tensor) for tensor in tensors]
    length = len(graph) + sum(map(len, starts)) + sum(tensor.nbytes for tensor in tensors)
    stream.write(proto.SerializeToString())
    stream.write(prefix(onnx.ModelProto, "graph", length) + graph)
    for tensor, start in zip(_reported(tensors, progress), starts, strict=True):
        stream.write(start)
        _write_bytes(tensor, stream)


def _embedded_start(tensor: ir.TensorProtocol) -> bytes:
    """A tensor's entry in the graph up to its bytes, which end it."""
    start: bytes = _header(tensor).SerializeToString()
    start += prefix(onnx.TensorProto, "raw_data", tensor.nbytes)
    return prefix(onnx.GraphProto, "initializer", len(start) + tensor.nbytes) + start


def _write_external(
    tensors: Tensors, stream: IO[bytes], location: str, progress: Progress | None
) -> Iterator[onnx.TensorProto]:
    """Write the data file and yield each tensor's entry in the graph."""
    for tensor in _reported(tensors, progress):
        header = _header(tensor)
        if tensor.nbytes < EMBEDDED_BELOW:
            header.raw_data = tensor.tobytes()
        else:
            offset = append_aligned(tensor, stream)
            header.data_location = onnx.TensorProto.EXTERNAL
            entries = {"location": location, "offset": str(offset), "length": str(tensor.nbytes)}
            for key, value in entries.items():
                header.external_data.add(key=key, value=value)
        yield header


def _header(tensor: ir.TensorProtocol) -> onnx.TensorProto:
    dims = tensor.shape.numpy()
    return onnx.TensorProto(dims=dims, data_type=int(tensor.dtype), name=tensor.name)


def _reported(tensors: Tensors, progress: Progress | None) -> Iterator[ir.TensorProtocol]:
    """The tensors in order; `progress` is told when the next one is asked for."""
    done, total = 0, sum(tensor.nbytes for tensor in tensors)
    for tensor in tensors:
        yield tensor
        done += tensor.nbytes
        if progress is not None:
            progress(done, total)


def append_aligned(tensor: ir.TensorProtocol, stream: IO[bytes]) -> int:
    """Write a tensor's bytes where a runtime can map them, and return that offset."""
    offset = math.ceil(stream.tell() / _ALIGNMENT) * _ALIGNMENT
    stream.write(b"\0" * (offset - stream.tell()))
    _write_bytes(tensor, stream)
    return offset


def _write_bytes(tensor: ir.TensorProtocol, stream: IO[bytes]) -> None:
    array = np.ascontiguousarray(tensor.numpy())
    if array.nbytes != tensor.nbytes:
        # Types narrower than a byte are packed by the tensor itself.
        stream.write(tensor.tobytes())
        return
    stream.write(array.reshape(-1).view(np.uint8).data)


_Message: TypeAlias = onnx.ModelProto | onnx.GraphProto | onnx.TensorProto


def prefix(message: type[_Message], name: str, length: int) -> bytes:
    """What comes before the content of a field, such as a submessage, of `length` bytes.

    The field's number and type, 2, and the length, each in base 128 with the least significant
    digit first and the high bit set in all digits but the last
    (https://protobuf.dev/programming-guides/encoding/#structure).
    """
    digits = bytearray()
    for value in (message.DESCRIPTOR.fields_by_name[name].number << 3 | 2, length):
        while value >= 0x80:
            digits.append(value & 0x7F | 0x80)
            value >>= 7
        digits.append(value)
    return bytes(digits)


def _flush(stream: IO[bytes]) -> None:
    """Force the data out, so that a full disk shows here and not after the folder is named."""
    stream.flush()
    os.fsync(stream.fileno())
