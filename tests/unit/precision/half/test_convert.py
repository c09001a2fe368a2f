"""fp16 and bf16 graphs: their types, their weights, their numbers, what they keep in fp32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from support.half_cases import BOUNDS, DTYPES, Case, attention_nodes, floats
from support.half_models import convert, run, run_rounded, session, widened
from support.random_models import random_model

from exporter.deberta.checkpoint import open_checkpoint
from exporter.graph.attention_body import SCORE_TERMS
from exporter.graph.attention_nodes import attention_shape
from exporter.graph.export import export_onnx
from exporter.graph.transforms.infer_types import infer_types
from exporter.graph.transforms.widen import widen
from exporter.graph.write import write_model
from exporter.model.task import Task, input_names, output_names
from exporter.precision.half.to_half import convert_to_half
from exporter.precision.half.types import HALF_TYPES, HalfName
from plugins.disentangled_attention import contract

pytestmark = pytest.mark.usefixtures("shared_traces")

TORCH = {"fp16": torch.float16, "bf16": torch.bfloat16}
PRODUCTS = ("MatMul", "Gemm", "Conv")


def typed(path: Path) -> ir.Model:
    model = ir.load(path)
    infer_types(model)
    return model


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(12))
def test_types_are_explicit_and_where_they_should_be(
    cases: Callable[[int], Case], seed: int, dtype: HalfName
) -> None:
    case, half = cases(seed), HALF_TYPES[dtype].onnx
    path, report = convert(case.graph, dtype, case.ranges)
    onnx.checker.check_model(str(path), full_check=True)
    proto = onnx.load(str(path))
    assert {o.type.tensor_type.elem_type for o in proto.graph.output} == {onnx.TensorProto.FLOAT}
    assert {i.type.tensor_type.elem_type for i in proto.graph.input} == {onnx.TensorProto.INT64}
    assert tuple(i.name for i in proto.graph.input) == input_names(case.fields["type_vocab_size"])
    assert tuple(o.name for o in proto.graph.output) == output_names(case.task)

    model = typed(path)
    nodes = {kind: [n for n in model.graph if n.op_type == kind] for kind in (*PRODUCTS, "Cast")}
    for node in model.graph:
        kinds = set(floats(node))
        # No type is mixed, and none is converted in passing, but by a Cast.
        assert len(kinds) <= 1 or node.op_type in ("Cast", "CastLike"), node.name
        if node.op_type in ("LayerNormalization", "Softmax", "Add", "Sqrt", "Erf", "Gelu"):
            assert kinds == {ir.DataType.FLOAT}, node.name
        if node.op_type in contract.QUERIES:
            assert kinds == {half}, node.name
    products = [node for kind in PRODUCTS for node in nodes[kind]]
    wide = [node for node in products if half not in floats(node)]
    last = 0 if case.task is Task.BASE else 1
    convolved = case.fields.get("conv_kernel_size", 0) > 0 and dtype == "bf16"
    assert len(wide) == last + convolved
    casts = [(n.inputs[0], n.attributes["to"].as_int()) for n in nodes["Cast"]]
    assert len(set(casts)) == len(casts)
    added = sum((node.name or "").endswith(".cast") for node in nodes["Cast"])
    assert added == report.casts
    assert report.attention_nodes == case.fields["num_hidden_layers"]
    kept = [item.name for item in report.kept_fp32]
    assert all(name.endswith(SCORE_TERMS) for name in kept)  # bf16 is coarse
    assert set(report.fp32_terms) == {name.rpartition(".")[2] for name in kept}
    assert not report.recommend_bf16


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_are_rounded_to_nearest_even(cases: Callable[[int], Case], dtype: HalfName) -> None:
    case = cases(3)
    path, _ = convert(case.graph, dtype, case.ranges)
    before = {
        name: value.const_value for name, value in ir.load(case.graph).graph.initializers.items()
    }
    rounded = 0
    for name, value in ir.load(path).graph.initializers.items():
        tensor, source = value.const_value, before[name]
        assert tensor is not None
        assert source is not None
        if tensor.dtype == source.dtype:
            assert tensor.tobytes() == source.tobytes(), name
            continue
        assert tensor.dtype == HALF_TYPES[dtype].onnx
        expected = torch.from_numpy(np.array(source.numpy())).to(TORCH[dtype])
        assert tensor.tobytes() == expected.view(torch.int16).numpy().tobytes(), name
        rounded += 1
    # Four matrices and two position tables a layer, the embeddings, the pooler or projection.
    assert rounded >= 6 * case.fields["num_hidden_layers"] + 1


def test_nothing_is_read_before_it_is_written(cases: Callable[[int], Case]) -> None:
    read: list[str] = []

    def watch(model: ir.Model) -> ir.Model:
        for name, value in model.graph.initializers.items():
            source = value.const_value
            assert source is not None

            def evaluate(source: ir.TensorProtocol = source, name: str = name) -> Any:
                read.append(name)
                return source

            value.const_value = ir.LazyTensor(
                evaluate, dtype=source.dtype, shape=ir.Shape(source.shape.numpy()), name=name
            )
        return model

    case = cases(4)
    model = watch(ir.load(case.graph))
    convert_to_half(model, "bf16", case.ranges)
    # Inference of shapes may look at what has a few elements only.
    sizes = {name: value.const_value.nbytes for name, value in model.graph.initializers.items()}
    assert all(sizes[name] < 1000 for name in read)
    read.clear()
    write_model(model, case.graph.with_name("lazy.onnx"))
    assert sorted(read) == sorted(sizes)

    read.clear()
    convert_to_half(watch(ir.load(case.graph)), "fp16", case.ranges)
    judged = [name for name in read if sizes[name] >= 1000]
    assert len(set(judged)) == len(judged) > 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_error_is_no_larger_than_that_of_transformers(
    cases: Callable[[int], Case], dtype: HalfName
) -> None:
    """Ours, with every half value rounded, beside PyTorch's model in the same type."""
    ours, theirs = [], []
    for seed in range(12):
        case = cases(seed)
        path, _ = convert(case.graph, dtype, case.ranges)
        ours.append(case.error(run_rounded(path, case.feeds)))
        model = random_model(case.fields, case.task, seed).to(TORCH[dtype])
        with torch.no_grad():
            result = model(**case.inputs, return_dict=True)
        outputs = [result[name].float().numpy() for name in output_names(case.task)]
        theirs.append(case.error(outputs))
    ratios = np.array(ours) / np.array(theirs)
    assert np.median(ratios) < 0.9
    assert ratios.max() < 2.0
    assert max(ours) < BOUNDS[dtype]


def test_widening_rounds_as_half_arithmetic_does(cases: Callable[[int], Case]) -> None:
    """Against onnx's own evaluator, which computes in numpy's float16 throughout."""
    from onnx.reference import ReferenceEvaluator

    case = cases(9)
    path, _ = convert(case.graph, "fp16", case.ranges)
    exact = ReferenceEvaluator(str(path)).run(None, case.feeds)
    rounded = run_rounded(path, case.feeds)
    own, gap = case.error(rounded), case.error(run(case.graph, case.feeds))
    assert gap == 0
    # They differ in how products are summed only, so by less than either is off.
    for one, other in zip(rounded, exact, strict=True):
        mask = case.inputs["attention_mask"].bool().numpy()
        rows = slice(None) if one.ndim < 3 else mask
        scale = np.sqrt((one[rows] ** 2).mean())
        assert np.sqrt(((one - other)[rows] ** 2).mean()) / scale < 1.5 * own


@pytest.mark.parametrize("dtype", DTYPES)
def test_widened_graph_has_no_half_arithmetic(
    cases: Callable[[int], Case], dtype: HalfName
) -> None:
    path, _ = convert(cases(1).graph, dtype, cases(1).ranges)
    model = typed(widened(path))
    assert not attention_nodes(model)
    half = HALF_TYPES[dtype].onnx
    touching = {node.op_type for node in model.graph if half in floats(node)}
    assert touching == {"Cast"}
    # The runtime keeps the rounding: an optimizer that drops it would show here.
    optimized = path.with_name("optimized.onnx")
    session(widened(path), optimized_model_filepath=str(optimized))
    left = [node for node in onnx.load(str(optimized)).graph.node if node.op_type == "Cast"]
    narrow = [n for n in left if any(a.name == "to" and a.i == int(half) for a in n.attribute)]
    rounding = widen(ir.load(path))
    # Casts of constants are folded; two that are alike are merged.
    assert 0.8 * rounding < len(narrow) <= rounding


def test_a_file_is_half_as_large(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(
        open_checkpoint(
            make_checkpoint(hidden_size=96, pooler_hidden_size=96, intermediate_size=200)
        ),
        path,
    )
    for dtype in DTYPES:
        converted, report = convert(path, dtype, None)
        assert converted.stat().st_size < 0.58 * path.stat().st_size
        assert report.stored_bytes < 0.52 * sum(
            value.const_value.nbytes
            for value in ir.load(path).graph.initializers.values()
            if value.const_value is not None
        )


def test_masked_lm_keeps_its_decoder_in_half_and_its_scores_in_fp32(tmp_path: Path) -> None:
    case = Case(tmp_path, 1, legacy=False, hidden_act="gelu", vocab_size=500)
    case.fields.pop("embedding_size", None)
    path, _ = convert(case.graph, "fp16", case.ranges)
    model = typed(path)
    decoder = model.graph.outputs[0].producer()
    while decoder is not None and decoder.op_type not in PRODUCTS:
        decoder = next(
            v for v in decoder.inputs if v is not None and not v.is_initializer()
        ).producer()
    assert decoder is not None
    assert set(floats(decoder)) == {ir.DataType.FLOAT}
    matrix = decoder.inputs[1]
    assert matrix is not None
    transpose = matrix.producer()  # of the table that the embeddings are read from
    assert transpose is not None and transpose.op_type == "Transpose"
    assert transpose.inputs[0] is not None
    cast = transpose.inputs[0].producer()
    assert cast is not None
    assert cast.op_type == "Cast"
    assert set(floats(cast)) == {ir.DataType.FLOAT16, ir.DataType.FLOAT}


def test_refuses_what_it_cannot_convert(cases: Callable[[int], Case]) -> None:
    case = cases(0)
    model = ir.load(case.graph)
    with pytest.raises(ValueError, match="safety_factor"):
        convert_to_half(model, "fp16", case.ranges, safety_factor=0.5)
    convert_to_half(model, "fp16", case.ranges)
    with pytest.raises(ValueError, match="half precision already"):
        convert_to_half(model, "bf16", case.ranges)
    empty = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 20}), ir_version=10)
    with pytest.raises(ValueError, match="no attention node"):
        attention_shape(empty)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_mask_is_a_value_that_the_type_has(
    cases: Callable[[int], Case], dtype: HalfName
) -> None:
    path, _ = convert(cases(0).graph, dtype, cases(0).ranges)
    body = next(iter(ir.load(path).functions.values()))
    where = next(node for node in body if node.op_type == "Where")
    low = where.inputs[2]
    assert low is not None
    constant = low.producer()
    assert constant is not None
    value = float(constant.attributes["value"].as_tensor().numpy())
    half = torch.tensor(value).to(TORCH[dtype])
    assert float(half) == value
    assert torch.isfinite(half * 1.5)
    assert value < -2000


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_fully_masked_row_is_finite(cases: Callable[[int], Case], dtype: HalfName) -> None:
    case = cases(2)
    path, _ = convert(case.graph, dtype, case.ranges)
    feeds = {**case.feeds, "attention_mask": case.feeds["attention_mask"].copy()}
    feeds["attention_mask"][1] = 0
    for output in run_rounded(path, feeds):
        assert np.isfinite(output).all()


def test_onnx_runtime_runs_the_fp16_file(cases: Callable[[int], Case]) -> None:
    for seed in range(6):
        case = cases(seed)
        path, _ = convert(case.graph, "fp16", case.ranges)
        assert 0 < case.error(run(path, case.feeds)) < 0.01
