"""An ONNX file as we write it: how it is opened, and the keys of its metadata."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from exporter.errors import InputError

if TYPE_CHECKING:
    import onnx

CONFIG_KEY = "deb_export.config"
"""The checkpoint's configuration as JSON."""
TASK_KEY = "deb_export.task"
PRECISION_KEY = "deb_export.precision"
FLOAT_TYPE_KEY = "deb_export.float_type"
"""The half type of a graph that has values of one."""
PLAN_KEY = "deb_export.plan"
"""What is rounded where, see `exporter.precision.precision_plan`; a graph in fp32 has none."""


def open_onnx(path: Path, content: bytes | None = None) -> onnx.ModelProto:
    """The model in a file, without the weights that lie beside it.

    `content` are its bytes, where something has been changed in them.

    Raises:
        InputError: the file cannot be read, or has no ONNX graph in it.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load_model_from_string(path.read_bytes() if content is None else content)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (DecodeError, ValueError) as error:
        raise InputError(f"{path}: not an ONNX file ({str(error).splitlines()[0]})") from None
    if not model.graph.node or not model.graph.output:
        raise InputError(f"{path}: not an ONNX file, or one without a graph")
    return model


def external_files(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the files with weights, each once."""
    entries = (entry for tensor in model.graph.initializer for entry in tensor.external_data)
    return tuple(dict.fromkeys(entry.value for entry in entries if entry.key == "location"))
