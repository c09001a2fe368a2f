"""Transposes of initializers folded into the initializers, lazily.

`torch.nn.Linear` stores its matrix as (out, in) and multiplies by the transpose; ONNX Runtime,
TensorRT and the quantization of weights want (in, out) as it is multiplied.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir


def fold_transposes(model: ir.Model) -> int:
    """Replace `Transpose(initializer)` by a transposed initializer of its name, and count them.

    An initializer that is read in its own layout as well, as a tied matrix is, stays with its
    Transpose, which runtimes fold when they load the graph: so the file has it once.
    """
    graph = model.graph
    folded = 0
    for node in list(graph):
        if node.op_type != "Transpose" or node.domain:
            continue
        source, output = node.inputs[0], node.outputs[0]
        tensor = None if source is None else source.const_value
        if source is None or source.name is None or tensor is None or not source.is_initializer():
            continue
        if len(source.uses()) > 1:
            continue
        perm, name = node.attributes["perm"].as_ints(), source.name
        shape = ir.Shape([tensor.shape.numpy()[axis] for axis in perm])
        dtype, evaluate = tensor.dtype, partial(_transposed, tensor, tuple(perm), name)
        lazy = ir.LazyTensor(evaluate, dtype=dtype, shape=shape, name=name)
        value = ir.Value(name=name, shape=shape, type=ir.TensorType(dtype), const_value=lazy)
        output.replace_all_uses_with(value)
        graph.remove(node, safe=True)
        del graph.initializers[name]
        graph.initializers[name] = value
        folded += 1
    return folded


def _transposed(tensor: ir.TensorProtocol, perm: tuple[int, ...], name: str) -> ir.TensorProtocol:
    return ir.Tensor(np.ascontiguousarray(tensor.numpy().transpose(perm)), name=name)
