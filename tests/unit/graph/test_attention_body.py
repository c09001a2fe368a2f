"""The operator's ONNX body in ONNX Runtime against the oracle, one node at a time."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from exporter.graph.attention_body import AttentionShape, Reading, attention_function
from exporter.graph.trace import OPSET
from plugins.disentangled_attention import contract
from plugins.disentangled_attention.oracle import disentangled_attention
from plugins.disentangled_attention.slots import slot_table

HEADS, SIZE, SPAN = 3, 5, 16
SCALE = 0.21
# Ours and the oracle add the same terms in another order.
RELATIVE_TOLERANCE = 2e-6


def single_node_model(shape: AttentionShape, mask_type: ir.DataType, queries: int | None) -> bytes:
    """A model with one node of an operator and its function."""
    kinds = {"slots": ir.DataType.INT32, "mask": mask_type}
    dims = {
        "qkv": ["b", "s", 3 * HEADS * SIZE],
        "pos_key": [HEADS, "r", SIZE],
        "pos_query": [HEADS, "q", SIZE],
        "slots": [2 * shape.saturation + 1],
        "mask": ["b", "s"],
    }
    inputs = [
        ir.Value(
            name=name,
            shape=ir.Shape(dims[name]),
            type=ir.TensorType(kinds.get(name, ir.DataType.FLOAT)),
        )
        for name in contract.INPUTS
    ]
    attributes = [
        ir.AttrInt64("num_heads", HEADS),
        ir.AttrFloat32("scale", shape.scale),
        ir.AttrInt64("c2p", int(shape.c2p)),
        ir.AttrInt64("p2c", int(shape.p2c)),
    ]
    node = ir.Node(
        contract.DOMAIN, contract.op_type_of(queries), inputs, attributes, name="attention"
    )
    (output,) = node.outputs
    output.name, output.type = "context", ir.TensorType(ir.DataType.FLOAT)
    output.shape = ir.Shape(["b", queries or "s", HEADS * SIZE])
    opsets = {"": OPSET, contract.DOMAIN: contract.VERSION}
    graph = ir.Graph(inputs, [output], nodes=[node], opset_imports=opsets, name="one")
    model = ir.Model(graph, ir_version=10)
    function = attention_function(shape, OPSET, queries=queries)
    model.functions[function.identifier()] = function
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString())


@pytest.mark.parametrize(("c2p", "p2c"), list(itertools.product([True, False], repeat=2)))
@pytest.mark.parametrize(("buckets", "max_position"), [(16, 20), (-1, 16)])
@pytest.mark.parametrize("mask_type", [ir.DataType.INT32, ir.DataType.BOOL])
@pytest.mark.parametrize(("reading", "queries"), [("gather", None), ("skew", None), ("gather", 1)])
def test_the_body_computes_the_operator(
    c2p: bool,
    p2c: bool,
    buckets: int,
    max_position: int,
    mask_type: ir.DataType,
    reading: Reading,
    queries: int | None,
) -> None:
    slots = slot_table(SPAN, buckets, max_position)
    shape = AttentionShape(HEADS, SIZE, SCALE, c2p, p2c, len(slots) // 2, reading)
    session = onnxruntime.InferenceSession(single_node_model(shape, mask_type, queries))
    for batch, length in ((1, 1), (2, 2), (3, 17), (1, 63), (2, 130)):
        generator = torch.Generator().manual_seed(length)
        qkv = torch.randn(batch, length, 3 * HEADS * SIZE, generator=generator)
        pos_key = torch.randn(HEADS, 2 * SPAN if c2p else 1, SIZE, generator=generator)
        pos_query = torch.randn(HEADS, 2 * SPAN if p2c else 1, SIZE, generator=generator)
        mask = torch.rand(batch, length, generator=generator) > 0.4
        mask[:, 0] = True
        tensors = (qkv, pos_key, pos_query, slots, mask)
        wanted = disentangled_attention(
            *tensors, num_heads=HEADS, scale=SCALE, c2p=c2p, p2c=p2c, queries=queries
        ).numpy()
        arrays = [tensor.numpy() for tensor in tensors]
        arrays[-1] = arrays[-1].astype(mask_type.numpy())
        read = {item.name for item in session.get_inputs()}
        feeds = dict(zip(contract.INPUTS, arrays, strict=True))
        (ours,) = session.run(None, {name: feeds[name] for name in read})
        assert ours.shape == wanted.shape
        assert np.abs(ours - wanted).max() < RELATIVE_TOLERANCE * np.abs(wanted).max()
