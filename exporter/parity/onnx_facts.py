"""What an ONNX file says of the model in it, whoever wrote it; no weight is read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.artifact.onnx_file import (
    CONFIG_KEY,
    PRECISION_KEY,
    TASK_KEY,
    external_files,
    open_onnx,
)
from exporter.deberta.configuration import DebertaConfig
from exporter.errors import InputError
from exporter.model.model_shape import ModelShape
from exporter.model.task import Task
from exporter.parity.limits import PRECISIONS

if TYPE_CHECKING:
    import onnx

_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger")


@dataclass(frozen=True)
class OnnxFacts:
    """Facts of a file.

    Attributes:
        producer: name and version of what wrote it.
        ours: `deb-export build` wrote it.
        precision: of its numbers, one of those that have limits.
        shape: the model, where the file says.
        length: the length in tokens that it is fixed to, None where it is dynamic.
        external: files with weights.
    """

    producer: str
    ours: bool
    precision: str
    shape: ModelShape | None
    length: int | None
    external: tuple[Path, ...]


def read_facts(path: Path) -> OnnxFacts:
    """The facts of the file at `path`.

    Raises:
        InputError: missing, or not an ONNX file.
    """
    model = open_onnx(path)
    metadata = {item.key: item.value for item in model.metadata_props}
    external = tuple(path.parent / name for name in external_files(model))
    missing = [file for file in external if not file.is_file()]
    if missing:
        raise InputError(f"{missing[0]}: missing; {path.name} has its weights there")
    return OnnxFacts(
        producer=f"{model.producer_name} {model.producer_version}".strip() or "an unknown exporter",
        ours=CONFIG_KEY in metadata,
        precision=_precision(model, metadata),
        shape=_shape(metadata),
        length=_fixed_length(model),
        external=external,
    )


def _shape(metadata: Mapping[str, str]) -> ModelShape | None:
    try:
        raw = json.loads(metadata[CONFIG_KEY])
        config = DebertaConfig.from_dict({"model_type": "deberta-v2", **raw})
        return config.shape(Task(metadata[TASK_KEY]))
    except (KeyError, ValueError, TypeError, InputError):
        return None


def _fixed_length(model: onnx.ModelProto) -> int | None:
    for item in model.graph.input:
        if item.name == "input_ids" and item.type.tensor_type.shape.dim:
            size = item.type.tensor_type.shape.dim[-1].dim_value
            return size or None
    return None


def _precision(model: onnx.ModelProto, metadata: Mapping[str, str]) -> str:
    """As the file says, or else as its operators and weights show."""
    import onnx

    if metadata.get(PRECISION_KEY) in PRECISIONS:
        return metadata[PRECISION_KEY]
    types = {tensor.data_type for tensor in model.graph.initializer}
    eight_bits = {
        onnx.TensorProto.FLOAT8E4M3FN,
        onnx.TensorProto.FLOAT8E5M2,
        onnx.TensorProto.FLOAT8E4M3FNUZ,
        onnx.TensorProto.FLOAT8E5M2FNUZ,
    }
    if types & eight_bits:
        return "fp8"
    if any(node.op_type in _QUANTIZED for node in _nodes(model)):
        return "int8"
    if onnx.TensorProto.BFLOAT16 in types:
        return "bf16"
    return "fp16" if onnx.TensorProto.FLOAT16 in types else "fp32"


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    yield from model.graph.node
    for function in model.functions:
        yield from function.node
