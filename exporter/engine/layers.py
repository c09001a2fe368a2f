"""The kernels of an engine, from its inspector or, without a GPU, from the builder's log.

An engine can be inspected only where it can be loaded, which takes a GPU. TensorRT-RTX writes the
same description into its verbose log when it has built an engine, which needs none.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from calibration.json_values import from_json_values, read_json
from exporter.errors import InputError
from plugins.disentangled_attention.contract import OP_TYPE

_TYPE_BYTES = {"Float": 4, "Half": 2, "BFloat16": 2, "FP8": 1, "Bool": 1}
_TYPE_BYTES |= {"Int64": 8, "Int32": 4, "Int8": 1, "UInt8": 1}
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_LINE = re.compile(
    r"^\s*Name: (?P<name>.*?), LayerType: (?P<kind>[^,]*), Inputs: \[(?P<inputs>.*?)\], "
    r"Constants: \[(?P<constants>.*?)\], Outputs: \[(?P<outputs>.*?)\], TacticName: "
    r"(?P<tactic>[^,]*), .*?Metadata: ?(?P<metadata>.*)$"
)
_TENSOR = re.compile(
    r"\{ Name: (?P<name>.*?), Dimensions: \[(?P<dims>[-\d,]*)\], .*?Datatype: (?P<dtype>\w+)"
)
_FUSED_ATTENTION = re.compile(r"(^|_)f?mha(_|$)", re.IGNORECASE)
_NOT_KERNELS = {"signal", "wait", "shape_call"}
"""Steps that order the streams or compute sizes on the host."""


@dataclass(frozen=True)
class Tensor:
    """An operand of a kernel: its type as TensorRT calls it, its shape with -1 for unknown."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Kernel:
    """One step of an engine, with what it reads and writes.

    `kind` is TensorRT's type of layer, such as `gemm`, or `kgen` for generated code; `constants`
    are weights. `nodes` are the ONNX nodes it computes; behind a bar, the node whose function they
    are from.
    """

    name: str
    kind: str
    inputs: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class KernelSummary:
    """What the kernels amount to, without steps that only order the streams.

    Attributes:
        kernels: how many there are.
        kinds: kernels by kind, most frequent first.
        dtypes: kernels by the type of their first output.
        attention: "plugin" where a plugin computes our operator, "fused" where one kernel computes
            a whole attention, "expanded" where its body is spread over kernels, "unknown" where
            nothing tells.
        attention_kernels: kernels that compute parts of our operator.
        traffic_bytes: bytes read and written by all, None where a shape is unknown.
    """

    kernels: int
    kinds: Mapping[str, int]
    dtypes: Mapping[str, int]
    attention: str
    attention_kernels: int
    traffic_bytes: int | None

    @classmethod
    def of(cls, steps: Sequence[Kernel]) -> KernelSummary:
        """Summarise the steps of an engine."""
        kernels = [step for step in steps if step.kind not in _NOT_KERNELS]
        ours = sum(any(OP_TYPE in node for node in kernel.nodes) for kernel in kernels)
        if any("plugin" in kernel.kind.lower() for kernel in kernels):
            attention = "plugin"
        elif any(_FUSED_ATTENTION.search(kernel.name) for kernel in kernels):
            attention = "fused"
        else:
            attention = "expanded" if ours else "unknown"
        operands = [item for k in kernels for item in (*k.inputs, *k.constants, *k.outputs)]
        known = all(size >= 0 for item in operands for size in item.shape)
        sizes = (prod(item.shape) * _TYPE_BYTES.get(item.dtype, 4) for item in operands)
        return cls(
            kernels=len(kernels),
            kinds=dict(Counter(kernel.kind for kernel in kernels).most_common()),
            dtypes=dict(Counter(k.outputs[0].dtype for k in kernels if k.outputs).most_common()),
            attention=attention,
            attention_kernels=ours,
            traffic_bytes=sum(sizes) if known else None,
        )


def from_log(messages: Iterable[str]) -> tuple[Kernel, ...]:
    """The kernels that a verbose build log lists; none where it has no such list."""
    kernels = []
    listed = "\n".join(message.partition("Layers:\n")[2] for message in messages)
    for line in listed.splitlines():
        if (match := _LINE.match(line)) is not None:
            operands = match.group("inputs", "constants", "outputs")
            inputs, constants, outputs = map(_tensors, operands)
            nodes = _nodes(match["metadata"])
            kernels.append(Kernel(match["name"], match["kind"], inputs, constants, outputs, nodes))
    return tuple(kernels)


def from_inspector(text: str) -> tuple[Kernel, ...]:
    """The kernels in an inspector's JSON; names alone where the engine holds no more."""
    kernels = []
    for item in json.loads(text).get("Layers", ()):
        layer: Mapping[str, Any] = {"Name": item} if isinstance(item, str) else item
        keys = ("Inputs", "Constants", "Outputs")
        inputs, constants, outputs = (_json_tensors(layer.get(key, ())) for key in keys)
        name, kind = str(layer.get("Name", "")), str(layer.get("LayerType", "unknown"))
        nodes = _nodes(str(layer.get("Metadata", "")))
        kernels.append(Kernel(name, kind, inputs, constants, outputs, nodes))
    return tuple(kernels)


def read_kernels(path: Path) -> tuple[Kernel, ...]:
    """The kernels in the file beside a plan.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return from_json_values(read_json(path), tuple[Kernel, ...])
    except ValueError:
        raise InputError(f"{path}: is malformed; build the artifact again") from None


def layers_path(plan: Path) -> Path:
    """Where the kernels of a plan are listed, beside it."""
    return plan.with_name(f"{plan.name.removesuffix('.plan')}.layers.json")


def _nodes(metadata: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(node.strip() for node in _NODE.findall(metadata)))


def _tensors(text: str) -> tuple[Tensor, ...]:
    found = (match.group("name", "dtype", "dims") for match in _TENSOR.finditer(text))
    return tuple(
        Tensor(name, dtype, tuple(int(size) for size in dims.split(",") if size))
        for name, dtype, dims in found
    )


def _json_tensors(items: Iterable[Mapping[str, Any]]) -> tuple[Tensor, ...]:
    found = []
    for item in items:
        # TensorRT writes one field, such as "Row major linear FP32"; TensorRT-RTX writes two.
        dtype = item.get("Datatype") or str(item.get("Format/Datatype", "unknown")).split()[-1]
        found.append(Tensor(str(item.get("Name", "")), dtype, tuple(item.get("Dimensions", ()))))
    return tuple(found)
