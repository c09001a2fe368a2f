"""What is in an ONNX file or an artifact folder, without running it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.artifact.onnx_file import CONFIG_KEY, external_files, open_onnx
from plugins.disentangled_attention.contract import DOMAIN, QUERIES

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Value:
    """An input or output: name, element type such as `INT64`, dimensions as text."""

    name: str
    dtype: str
    shape: tuple[str, ...]


@dataclass(frozen=True)
class Weights:
    """The initializers of one element type."""

    tensors: int
    elements: int
    bytes: int


@dataclass(frozen=True)
class GraphDescription:
    """An ONNX file.

    Attributes:
        bytes: size of the file and of those with external data, which lie beside it.
        producer: name and version of what wrote it.
        opsets: version by operator domain; `ai.onnx` is the standard one.
        inputs: inputs of the main graph, weights left out.
        operators: nodes of the main graph by operator, most frequent first.
        functions: nodes in the body of each local function, by `domain::name`.
        weights: initializers by element type.
        attention_nodes: nodes of our attention operator in the main graph.
        layers: layers of the model as the metadata tell; None for a file of another producer.
        metadata: every other entry of the metadata.
    """

    path: Path
    bytes: int
    external_files: tuple[str, ...]
    producer: str
    ir_version: int
    opsets: Mapping[str, int]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    operators: Mapping[str, int]
    functions: Mapping[str, int]
    weights: Mapping[str, Weights]
    attention_nodes: int
    layers: int | None
    metadata: Mapping[str, str]


def describe_graph(path: Path) -> GraphDescription:
    """Describe an ONNX file; external data are not read.

    Raises:
        InputError: the file cannot be read or is not ONNX.
    """
    model = open_onnx(path)
    graph = model.graph
    initializers = {tensor.name for tensor in graph.initializer}
    external = external_files(model)
    sizes = (path.parent / name for name in external)
    metadata = {item.key: item.value for item in model.metadata_props}
    operators = Counter(f"{n.domain}::{n.op_type}".removeprefix("::") for n in graph.node)
    return GraphDescription(
        path=path,
        bytes=path.stat().st_size + sum(f.stat().st_size for f in sizes if f.is_file()),
        external_files=external,
        producer=f"{model.producer_name} {model.producer_version}".strip() or "unknown",
        ir_version=model.ir_version,
        opsets={item.domain or "ai.onnx": item.version for item in model.opset_import},
        inputs=tuple(_value(item) for item in graph.input if item.name not in initializers),
        outputs=tuple(_value(item) for item in graph.output),
        operators=dict(operators.most_common()),
        functions={f"{item.domain}::{item.name}": len(item.node) for item in model.functions},
        weights=_weights(graph),
        attention_nodes=sum(operators[f"{DOMAIN}::{name}"] for name in QUERIES),
        layers=_layers(metadata),
        metadata={key: value for key, value in metadata.items() if key != CONFIG_KEY},
    )


def _value(info: onnx.ValueInfoProto) -> Value:
    import onnx

    tensor = info.type.tensor_type
    dims = (dim.dim_param or str(dim.dim_value) for dim in tensor.shape.dim)
    return Value(info.name, onnx.TensorProto.DataType.Name(tensor.elem_type), tuple(dims))


def _weights(graph: onnx.GraphProto) -> dict[str, Weights]:
    """Initializers by element type, the type with the most bytes first."""
    import onnx_ir

    totals: dict[str, Weights] = {}
    for tensor in graph.initializer:
        dtype = onnx_ir.DataType(tensor.data_type)
        old = totals.get(dtype.name, Weights(0, 0, 0))
        elements = prod(tensor.dims)
        text = dtype is onnx_ir.DataType.STRING
        size = sum(map(len, tensor.string_data)) if text else ceil(elements * dtype.itemsize)
        totals[dtype.name] = Weights(old.tensors + 1, old.elements + elements, old.bytes + size)
    return dict(sorted(totals.items(), key=lambda item: -item[1].bytes))


def _layers(metadata: Mapping[str, str]) -> int | None:
    """Number of layers in the configuration that our export puts into the metadata."""
    try:
        layers = json.loads(metadata[CONFIG_KEY])["num_hidden_layers"]
    except (ValueError, KeyError, TypeError):
        return None
    return layers if isinstance(layers, int) else None
