"""Folding of transposed initializers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from exporter.graph.transforms.fold_transposes import fold_transposes


def small_graph(also_read_plainly: bool) -> ir.Model:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    value = ir.Value(
        name="w",
        shape=ir.Shape(weight.shape),
        type=ir.TensorType(ir.DataType.FLOAT),
        const_value=ir.tensor(weight, name="w"),
    )
    x = ir.Value(name="x", shape=ir.Shape(["n", 3]), type=ir.TensorType(ir.DataType.FLOAT))
    tape = Tape()
    y = tape.op("MatMul", [x, tape.op("Transpose", [value], {"perm": (1, 0)})])
    if also_read_plainly:
        y = tape.op("MatMul", [y, value])
    graph = ir.Graph([x], [y], nodes=tape.nodes, initializers=[value], opset_imports={"": 20})
    return ir.Model(graph, ir_version=10)


def test_a_transposed_initializer_takes_the_place_of_the_node() -> None:
    model = small_graph(also_read_plainly=False)
    assert fold_transposes(model) == 1
    assert [node.op_type for node in model.graph] == ["MatMul"]
    (value,) = model.graph.initializers.values()
    assert value.name == "w"
    assert value.const_value is not None
    assert value.shape is not None
    assert value.shape.numpy() == (3, 2)
    np.testing.assert_array_equal(value.const_value.numpy(), np.arange(6).reshape(2, 3).T)


def test_an_initializer_that_is_read_plainly_too_is_stored_once() -> None:
    model = small_graph(also_read_plainly=True)
    assert fold_transposes(model) == 0
    assert set(model.graph.initializers) == {"w"}
    assert "Transpose" in [node.op_type for node in model.graph]


def test_a_transposed_activation_is_left_alone() -> None:
    x = ir.Value(name="x", shape=ir.Shape(["n", 3]), type=ir.TensorType(ir.DataType.FLOAT))
    tape = Tape()
    y = tape.op("Transpose", [x], {"perm": (1, 0)})
    graph = ir.Graph([x], [y], nodes=tape.nodes, opset_imports={"": 20})
    assert fold_transposes(ir.Model(graph, ir_version=10)) == 0
