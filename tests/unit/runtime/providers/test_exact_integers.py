"""int8 products in our sessions are those of integers, on any processor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from exporter.artifact.manifest import read_manifest
from exporter.deberta.configuration import DebertaConfig
from exporter.model.task import Task
from exporter.runtime.load import open_session
from exporter.runtime.providers.integer_products import onnxruntime_is_exact
from exporter.runtime.providers.onnx_session import EXACT_INTEGERS, OnnxSession

pytestmark = pytest.mark.usefixtures("shared_traces")

ROWS, CHANNELS, COLUMNS = 6, 77, 19
SHAPE = DebertaConfig.from_dict({"model_type": "deberta-v2"}).shape(Task.SEQUENCE_CLASSIFICATION)


def draw(kind: str, largest: int = 127) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """Stored activations `(ROWS, CHANNELS)` and weights `(CHANNELS, COLUMNS)`."""
    generator = np.random.default_rng(8)
    ends = ((127, (ROWS, CHANNELS)), (largest, (CHANNELS, COLUMNS)))
    if kind == "largest":
        one, other = (np.full(size, end) for end, size in ends)
    elif kind == "ends":
        one, other = (generator.choice([-end, end], size) for end, size in ends)
    else:
        one, other = (generator.integers(-end, end + 1, size) for end, size in ends)
    return one.astype(np.int8), other.astype(np.int8)


def graph(
    activations: NDArray[np.int8], weight: NDArray[np.int8], zeros: tuple[str, ...] = ("zeros",)
) -> onnx.ModelProto:
    """A model whose id `i` gives the product of row `i` with the weight, all scales 1.

    The sum of as many of them as there are `zeros`, names of the weights' zero points, or "".
    """
    constants = {
        "table": activations.astype(np.float32)[:, None, :],
        "one": np.float32(1),
        "ones": np.ones(COLUMNS, np.float32),
        "zero": np.int8(0),
        "first": np.int64(0),
        "axes": np.array([1]),
    }
    nodes = [
        helper.make_node("Gather", ["input_ids", "first"], ["ids"], axis=1),
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["stored"]),
        helper.make_node("DequantizeLinear", ["stored", "one", "zero"], ["restored"]),
    ]
    for index, name in enumerate(zeros):
        constants |= {f"weight{index}": weight} | (
            {name: np.zeros(COLUMNS, np.int8)} if name else {}
        )
        given = [f"weight{index}", "ones", *((name,) if name else ())]
        nodes += [
            helper.make_node("DequantizeLinear", given, [f"factor{index}"], axis=1),
            helper.make_node("MatMul", ["restored", f"factor{index}"], [f"product{index}"]),
        ]
    products = [f"product{index}" for index in range(len(zeros))]
    nodes += [
        helper.make_node("Sum", products, ["sum"]),
        helper.make_node("Squeeze", ["sum", "axes"], ["logits"]),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "S"]) for name in SHAPE.inputs
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", COLUMNS])]
    initializers = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    body = helper.make_graph(nodes, "products", inputs, outputs, initializers)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("weight_bits", [8, 7])
@pytest.mark.parametrize("kind", ["largest", "ends", "any"])
def test_products_are_those_of_integers(kind: str, weight_bits: int, tmp_path: Path) -> None:
    activations, weight = draw(kind, {8: 127, 7: 64}[weight_bits])
    path = tmp_path / "model.onnx"
    onnx.save(graph(activations, weight), str(path))
    ids = np.arange(ROWS, dtype=np.int64)[:, None]
    feeds = {name: ids if name == "input_ids" else np.ones_like(ids) for name in SHAPE.inputs}
    with OnnxSession(path, SHAPE, weight_bits=weight_bits) as session:
        found = session.run(**feeds)["logits"]
    expected = activations.astype(np.int64) @ weight.astype(np.int64)
    # Below 2^24, so that fp32 holds them.
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("facts", "other_graph", "expected"),
    [
        ({"quantization": {"weight_bits": 7}}, False, 7),
        ({"quantization": {"weight_bits": 8}}, False, 8),
        ({}, False, 8),
        ({"quantization": {"weight_bits": 7}}, True, 8),
    ],
)
@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_the_manifest_says_how_many_bits_weights_use(
    facts: dict[str, Any],
    other_graph: bool,
    expected: int,
    provider: str,
    make_artifact: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    class Spy:
        def __init__(self, *arguments: object, weight_bits: int = 8, **options: object) -> None:
            asked.append(weight_bits)

    monkeypatch.setattr("exporter.runtime.providers.onnx_session.OnnxSession", Spy)
    monkeypatch.setattr("exporter.runtime.providers.openvino_session.OpenVinoSession", Spy)
    folder = make_artifact("base")
    manifest = replace(read_manifest(folder), precision="int8", graph=facts)
    graph = folder / "model.onnx" if other_graph else None
    open_session(folder, manifest, provider, graph=graph)
    assert asked == [expected]


def test_a_default_session_is_judged_by_what_it_computes(tmp_path: Path) -> None:
    import onnxruntime

    path = tmp_path / "model.onnx"
    activations, weight = draw("largest")
    onnx.save(graph(activations, weight), str(path))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    ids = np.arange(ROWS, dtype=np.int64)[:, None]
    feeds = {name: ids if name == "input_ids" else np.ones_like(ids) for name in SHAPE.inputs}
    (found,) = session.run(["logits"], feeds)
    exact = (found == activations.astype(np.int64) @ weight.astype(np.int64)).all()
    assert onnxruntime_is_exact() is bool(exact)


def test_they_are_integer_kernels(tmp_path: Path) -> None:
    import onnxruntime

    path, optimized = tmp_path / "model.onnx", tmp_path / "optimized.onnx"
    onnx.save(graph(*draw("any")), str(path))
    options = onnxruntime.SessionOptions()
    for key, value in EXACT_INTEGERS.items():
        options.add_session_config_entry(key, value)
    options.log_severity_level = 3
    options.optimized_model_filepath = str(optimized)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(str(optimized)).graph.node)
    assert kinds["MatMulIntegerToFloat"] == 1
    assert kinds["MatMul"] == kinds["DequantizeLinear"] == 0


@pytest.mark.parametrize(
    ("version", "zeros"),
    [(None, ("shared", "shared")), ("1.26.0", ("",))],
    ids=["refused", "would end the process"],
)
def test_what_exact_products_break_opens_without_them(
    version: str | None, zeros: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As other quantizers write int8: weights with one zero point for all, or with none."""
    if version is not None:
        monkeypatch.setattr("onnxruntime.__version__", version)
    path = tmp_path / "foreign.onnx"
    onnx.save(graph(*draw("any"), zeros), str(path))
    with pytest.warns(UserWarning, match=r"foreign.onnx: .* opens it only without exact int8"):
        session = OnnxSession(path, SHAPE)
    assert session.name == "onnxruntime cpu, without exact int8 products"


def test_what_cannot_be_optimized_in_full_opens_with_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As fp8 does before ONNX Runtime 1.32."""
    import onnxruntime

    invalid = type("InvalidGraph", (RuntimeError,), {})

    def refuse(path: str, options: Any, **settings: Any) -> Any:
        if options.graph_optimization_level != onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC:
            raise invalid("Type Error")
        return start(path, options, **settings)

    start = onnxruntime.InferenceSession
    path = tmp_path / "fp8.onnx"
    onnx.save(graph(*draw("any")), str(path))
    monkeypatch.setattr("onnxruntime.InferenceSession", refuse)
    with pytest.warns(UserWarning, match=r"fp8.onnx: .* opens it only with basic optimizations"):
        session = OnnxSession(path, SHAPE)
    assert session.name == "onnxruntime cpu, with basic optimizations"
