"""A graph in its plain form: the operator's body in the place of each of its nodes.

For tools that do not read local functions, see docs/graph.md: they refuse one, drop it, or leave
what is in it as it is.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from exporter.artifact.onnx_file import open_onnx
from exporter.graph.finish import check_graph
from exporter.graph.transforms.infer_types import infer_types
from exporter.graph.write import write_model
from plugins.disentangled_attention import contract


def write_plain(source: Path, target: Path) -> tuple[Path, ...]:
    """Write the graph of `source` to `target` without functions, and return the files written.

    Weights that lie outside are used where they are by a target beside them, and copied to
    `<target>.data` for one in another folder.

    Raises, beside what `check_graph` does for defects:
        InputError: not an ONNX file, or its external data is missing or broken.
        OSError: the file cannot be written.
    """
    open_onnx(source)  # says what is wrong with it
    model = ir.load(source)
    InlinePass()(model)
    model.opset_imports.pop(contract.DOMAIN, None)
    infer_types(model)
    check_graph(model, 0)
    tensors = [value.const_value for value in model.graph.initializers.values()]
    outside = any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors)
    if outside and target.parent.resolve() == source.parent.resolve():
        target.write_bytes(ir.to_proto(model).SerializeToString())
        return (target,)
    files, _ = write_model(model, target, external_data=outside or None)
    return files
