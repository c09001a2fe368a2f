"""The portable graph in fp16 or bf16: ranges measured, types planned and applied, written."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import onnx_ir as ir

from calibration.graphs import Feeds
from calibration.ranges import ValueRange, inner_name, measure_ranges
from exporter.artifact.onnx_file import FLOAT_TYPE_KEY, PLAN_KEY, PRECISION_KEY
from exporter.graph.attention_body import SCORE_TERMS, AttentionShape, attention_function
from exporter.graph.attention_nodes import attention_nodes, attention_shape, set_functions
from exporter.graph.finish import finish
from exporter.graph.transforms.infer_types import infer_types
from exporter.graph.write import tensor_of
from exporter.inputs.text_files import calibration_errors
from exporter.precision.converted import Converted
from exporter.precision.half.apply import apply_plan
from exporter.precision.half.fit import Fit, Kept, module_of
from exporter.precision.half.half_plan import HalfPlan, Role, plan_half, role_of
from exporter.precision.half.types import HALF_TYPES, HalfName
from exporter.precision.precision_plan import (
    HalfArithmetic,
    PrecisionPlan,
    decode_plan,
    encode_plan,
)
from exporter.progress import Progress, silent
from exporter.runtime.providers.onnx_session import open_fp32

SAFETY_FACTOR = 4.0
"""How far below fp16's largest value a measured range must end: other texts reach further."""

RECOMMEND_BF16_ABOVE = 0.25
"""Share of the products' weights in fp32 from which fp16 saves too little."""


@dataclass(frozen=True)
class HalfReport:
    """What a conversion did, as the manifest says it.

    `converted_nodes` are those that compute in half, layout nodes and `attention_nodes` included;
    `fp32_terms` of the scores are fp32 in every layer; `casts` were inserted in the main graph;
    `stored_bytes` are all initializers' now. `kept_fp32` stays because of its range, `kept_share`
    of the products' weights with it.
    """

    dtype: HalfName
    converted_nodes: int
    attention_nodes: int
    fp32_terms: tuple[str, ...]
    casts: int
    stored_bytes: int
    safety_factor: float
    kept_fp32: tuple[Kept, ...]
    kept_share: float
    recommend_bf16: bool


def convert_file(
    source: Path,
    target: Path,
    dtype: HalfName,
    batches: Sequence[Feeds],
    *,
    precision: str,
    external_data: bool | None = None,
    progress: Progress = silent,
) -> Converted:
    """Convert the fp32 graph in `source`, best with a data file, and write it to `target`.

    Ranges are measured on `batches`, which have all lengths and padding. The file says that it has
    `precision`: `dtype`, or "int8" and "fp8", whose rest is converted. For `external_data` see
    `write_model`.

    Raises:
        InputError: no batches, NaN in a value of the fp32 graph, or in a weight.
        OSError: the file cannot be written.
    """
    count = len(batches)

    def say(message: str) -> None:
        progress(f"{dtype}: {message}")

    with calibration_errors():
        ranges = measure_ranges(
            source,
            batches,
            open_fp32,
            progress=lambda done: say(f"ranges: batch {done} of {count}"),
        )
    say("converting")
    model = ir.load(source)
    layers = len(attention_nodes(model))
    report = convert_to_half(model, dtype, ranges)
    model.metadata_props[PRECISION_KEY] = precision
    summary = finish(model, target, layers, external_data=external_data, progress=say)
    if report.recommend_bf16:
        warnings.warn(
            f"{report.kept_share:.0%} of the weights stay in fp32, since their values come near "
            "the limits of fp16; --precision bf16 halves all of them",
            stacklevel=2,
        )
    facts = asdict(report)
    return Converted(summary, {"half": {**facts, "kept_fp32": list(facts["kept_fp32"])}})


def convert_to_half(
    model: ir.Model,
    dtype: HalfName,
    ranges: Mapping[str, ValueRange] | None,
    *,
    safety_factor: float = SAFETY_FACTOR,
) -> HalfReport:
    """Convert an exported fp32 graph in place; weights are converted when they are written.

    Products, embedding tables and the attention's inputs and output become half; bias, residual
    sum, LayerNorm, activation, softmax, quantization and the last product stay fp32. Inputs and
    outputs of the graph keep their types.

    Args:
        model: an exported graph, with or without QuantizeLinear and DequantizeLinear.
        ranges: of the values of this very graph. With None only what is stored is judged: fp16 may
            overflow, and scores stay in fp32.
        safety_factor: how far below fp16's largest value a range must end, at least 1. bf16 ends
            where fp32 does.

    Raises:
        ValueError: the graph holds half values already, is not well typed or has no attention
            node, or the safety factor is below 1.
        InputError: a weight file is broken or holds NaN.
    """
    if safety_factor < 1:
        raise ValueError(f"safety_factor {safety_factor} is below 1")
    half = HALF_TYPES[dtype]
    graph = model.graph
    infer_types(model)
    halves = {known.onnx for known in HALF_TYPES.values()}
    if any(value.dtype in halves for node in graph for value in node.outputs):
        raise ValueError("the graph is in half precision already")
    shape = attention_shape(model)
    fit = Fit(half, ranges, safety_factor)
    large = _large_terms(attention_nodes(model), shape, fit)
    fp32_terms = SCORE_TERMS if ranges is None else tuple(large)
    plan = plan_half(graph, half, fit if dtype == "fp16" else None)
    roles = {node: role_of(node) for node in graph}
    casts = apply_plan(graph, plan, half)
    opset = graph.opset_imports[""]
    set_functions(
        model,
        lambda queries: attention_function(
            shape, opset, dtype, fp32_terms=fp32_terms, queries=queries
        ),
    )
    terms = tuple(term.rpartition(".")[2] for term in fp32_terms)
    model.metadata_props[FLOAT_TYPE_KEY] = dtype
    _record(model, _arithmetic(dtype, roles, plan, terms))
    return HalfReport(
        dtype=dtype,
        converted_nodes=len(plan.nodes),
        attention_nodes=sum(role_of(node) is Role.ATTENTION for node in plan.nodes),
        fp32_terms=terms,
        casts=casts,
        stored_bytes=sum(tensor_of(value).nbytes for value in graph.initializers.values()),
        safety_factor=safety_factor,
        kept_fp32=(*plan.kept, *chain.from_iterable(large.values())),
        kept_share=plan.kept_share,
        recommend_bf16=plan.kept_share > RECOMMEND_BF16_ABOVE,
    )


def _large_terms(
    nodes: Sequence[ir.Node], shape: AttentionShape, fit: Fit
) -> dict[str, list[Kept]]:
    """Terms of the attention's scores that the type is too coarse for, with where they are."""
    outputs = [node.outputs[0] for node in nodes]
    large = {}
    for term in shape.terms:
        verdicts = [fit.judge_score(inner_name(v.name or "", term), module_of(v)) for v in outputs]
        if kept := [verdict for verdict in verdicts if verdict is not None]:
            large[term] = kept
    return large


def _arithmetic(
    dtype: HalfName, roles: Mapping[ir.Node, Role], plan: HalfPlan, terms: tuple[str, ...]
) -> HalfArithmetic:
    """What is half, in the names of the checkpoint; the position tables go with their attention."""
    attention = [node for node, role in roles.items() if role is Role.ATTENTION]
    products = [n for n, role in roles.items() if role is Role.PRODUCT and n in plan.nodes]
    matrices = [node.inputs[1] for node in products]
    positions = {node.inputs[index] for node in attention for index in (1, 2)}
    return HalfArithmetic(
        dtype=dtype,
        products=tuple((m.name or "").removesuffix(".weight") for m in matrices if m is not None),
        stored=tuple(sorted(value.name or "" for value in plan.stored - positions)),
        attention=tuple(index for index, node in enumerate(attention) if node in plan.nodes),
        fp32_terms=terms,
    )


def _record(model: ir.Model, half: HalfArithmetic) -> None:
    """Write the plan into the metadata, beside that of a quantization."""
    text = model.metadata_props.get(PLAN_KEY)
    plan = PrecisionPlan() if text is None else decode_plan(text, "the quantized graph")
    model.metadata_props[PLAN_KEY] = encode_plan(plan.with_half(half))
