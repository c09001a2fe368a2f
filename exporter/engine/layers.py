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

from exporter.artifact.json_values import from_json_values
from exporter.errors import InputError
from plugins.disentangled_attention.contract import OP_TYPE

_BYTES = {
    "Float": 4,
    "Half": 2,
    "BFloat16": 2,
    "Int8": 1,
    "FP8": 1,
    "Int32": 4,
    "Int64": 8,
    "Bool": 1,
    "UInt8": 1,
}
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

    @property
    def bytes(self) -> int | None:
        """Its size, None where a dimension is unknown."""
        if any(size < 0 for size in self.shape):
            return None
        return prod(self.shape) * _BYTES.get(self.dtype, 4)


@dataclass(frozen=True)
class Kernel:
    """One step of an engine.

    Attributes:
        name: TensorRT's name.
        kind: TensorRT's type of layer, such as `gemm`, or `kgen` for generated code.
        inputs: what it reads that other kernels or the caller have written.
        constants: weights that it reads.
        outputs: what it writes.
        nodes: the ONNX nodes it computes; behind a bar, the node whose function they are from.
    """

    name: str
    kind: str
    inputs: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    nodes: tuple[str, ...]

    @property
    def dtype(self) -> str:
        """Type of its first output."""
        return self.outputs[0].dtype if self.outputs else "none"

    @property
    def traffic_bytes(self) -> int | None:
        """Bytes read and written, None where a shape is unknown."""
        sizes = [item.bytes for item in (*self.inputs, *self.constants, *self.outputs)]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None


@dataclass(frozen=True)
class KernelSummary:
    """What `kernels` amount to.

    Attributes:
        kernels: how many there are, without steps that only order the streams.
        kinds: kernels by kind, most frequent first.
        dtypes: kernels by the type they write.
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
        sizes = [kernel.traffic_bytes for kernel in kernels]
        known = [size for size in sizes if size is not None]
        ours = [kernel for kernel in kernels if any(OP_TYPE in node for node in kernel.nodes)]
        return cls(
            kernels=len(kernels),
            kinds=dict(Counter(kernel.kind for kernel in kernels).most_common()),
            dtypes=dict(Counter(k.dtype for k in kernels if k.outputs).most_common()),
            attention=_attention(kernels, ours),
            attention_kernels=len(ours),
            traffic_bytes=sum(known) if len(known) == len(sizes) else None,
        )


def _attention(kernels: Sequence[Kernel], ours: Sequence[Kernel]) -> str:
    if any("plugin" in kernel.kind.lower() for kernel in kernels):
        return "plugin"
    if any(_FUSED_ATTENTION.search(kernel.name) for kernel in kernels):
        return "fused"
    return "expanded" if ours else "unknown"


def from_log(messages: Iterable[str]) -> tuple[Kernel, ...]:
    """The kernels that a verbose build log lists; none where it has no such list."""
    kernels = []
    for message in messages:
        _, found, listing = message.partition("Layers:\n")
        if not found:
            continue
        for line in listing.splitlines():
            match = _LINE.match(line)
            if match is not None:
                kernels.append(
                    Kernel(
                        name=match["name"],
                        kind=match["kind"],
                        inputs=_tensors(match["inputs"]),
                        constants=_tensors(match["constants"]),
                        outputs=_tensors(match["outputs"]),
                        nodes=_nodes(match["metadata"]),
                    )
                )
    return tuple(kernels)


def from_inspector(text: str) -> tuple[Kernel, ...]:
    """The kernels in an inspector's JSON; names alone where the engine holds no more."""
    kernels = []
    for layer in json.loads(text).get("Layers", ()):
        if isinstance(layer, str):
            kernels.append(Kernel(layer, "unknown", (), (), (), ()))
            continue
        kernels.append(
            Kernel(
                name=str(layer.get("Name", "")),
                kind=str(layer.get("LayerType", "unknown")),
                inputs=_json_tensors(layer.get("Inputs", ())),
                constants=_json_tensors(layer.get("Constants", ())),
                outputs=_json_tensors(layer.get("Outputs", ())),
                nodes=_nodes(str(layer.get("Metadata", ""))),
            )
        )
    return tuple(kernels)


def read_kernels(path: Path) -> tuple[Kernel, ...]:
    """The kernels in the file beside a plan.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return from_json_values(json.loads(path.read_bytes()), tuple[Kernel, ...])
    except ValueError:
        raise InputError(f"{path}: is malformed; build the artifact again") from None


def layers_path(plan: Path) -> Path:
    """Where the kernels of a plan are listed, beside it."""
    return plan.with_name(f"{plan.name.removesuffix('.plan')}.layers.json")


def _nodes(metadata: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(node.strip() for node in _NODE.findall(metadata)))


def _tensors(text: str) -> tuple[Tensor, ...]:
    found = []
    for match in _TENSOR.finditer(text):
        shape = tuple(int(size) for size in match["dims"].split(",") if size)
        found.append(Tensor(match["name"], match["dtype"], shape))
    return tuple(found)


def _json_tensors(items: Iterable[Mapping[str, Any]]) -> tuple[Tensor, ...]:
    found = []
    for item in items:
        # TensorRT writes one field, such as "Row major linear FP32"; TensorRT-RTX writes two.
        dtype = item.get("Datatype") or str(item.get("Format/Datatype", "unknown")).split()[-1]
        found.append(Tensor(str(item.get("Name", "")), dtype, tuple(item.get("Dimensions", ()))))
    return tuple(found)
