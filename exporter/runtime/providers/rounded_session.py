"""A half-precision graph on ONNX Runtime's CPU provider, with the rounding that half has.

The CPU provider has no kernels for bf16. For fp16 it computes in fp32 and leaves out the rounding
in between, so an overflow does not show. What runs here is the graph that
`exporter.graph.transforms.widen` derives from the file: fp32 arithmetic on the file's own weights,
each value that the file has in half rounded to half.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from exporter.errors import InputError
from exporter.inputs.encode import TextEncoder
from exporter.model.model_shape import ModelShape
from exporter.runtime.providers.onnx_session import OnnxSession
from exporter.runtime.runtime_options import DEFAULTS, RuntimeOptions


def open_rounded(
    path: Path,
    shape: ModelShape,
    text: TextEncoder | None = None,
    options: RuntimeOptions = DEFAULTS,
) -> OnnxSession:
    """As an `OnnxSession`, for a graph with half values: as a device computes that sums in fp32.

    An InputError where the native attention is asked for: the rounding is within the body.
    """
    if options.attention_kernel == "native":
        raise InputError(f"{path}: is rounded in the body of its attention; leave native out")
    options = replace(options, attention_kernel="body")
    session = OnnxSession(path, shape, text, options, content=widened_content(path))
    session.name += ", rounded as half"
    return session


def widened_content(path: Path) -> bytes:
    """The graph in fp32 with half's rounding, serialized; weights outside stay where they are.

    An InputError where the file is missing or broken.
    """
    import onnx_ir as ir

    from exporter.graph.transforms.widen import widen

    if not path.is_file():
        raise InputError(f"{path}: no such file; build the artifact again")
    try:
        model = ir.load(path)
        widen(model)
    except Exception as error:  # protobuf's own errors have no public base
        raise InputError(f"{path}: not a graph of deb-export build ({error})") from error
    content: bytes = ir.to_proto(model).SerializeToString()
    return content
