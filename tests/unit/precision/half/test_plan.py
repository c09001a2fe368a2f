"""What an fp16 or bf16 graph keeps in fp32, by measured ranges."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
import transformers
from onnx_ir.passes.common import InlinePass
from support.half_cases import BOUNDS, Case, attention_nodes, floats
from support.half_models import convert, rescale, run, run_rounded

from calibration.ranges import ValueRange, measure_ranges
from exporter.deberta.checkpoint import open_checkpoint
from exporter.graph.attention_body import SCORE_TERMS
from exporter.graph.export import export_onnx
from exporter.graph.transforms.infer_types import infer_types
from exporter.precision.half.types import HALF_TYPES, HalfName
from exporter.runtime.providers.onnx_session import open_fp32

pytestmark = pytest.mark.usefixtures("shared_traces")


class Sentiment:
    """The demo-like classifier of the tests, rescaled and not."""

    def __init__(self, folder: Path, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.graph = folder / "model.onnx"
        export_onnx(open_checkpoint(checkpoint), self.graph)
        rng = np.random.default_rng(1)
        lengths = rng.integers(2, 40, 24)
        mask = (np.arange(40) < lengths[:, None]).astype(np.int64)
        self.feeds = {"input_ids": rng.integers(0, 1616, (24, 40)) * mask, "attention_mask": mask}
        self.ranges = measure_ranges(self.graph, [self.feeds], open_fp32)
        (self.logits,) = run(self.graph, self.feeds)

    def error(self, path: Path) -> float:
        (logits,) = run_rounded(path, self.feeds)
        return float(np.abs(logits - self.logits).max() / np.abs(self.logits).max())


def rescaled(folder: Path, checkpoint: Path, what: str, factor: float) -> Sentiment:
    return Sentiment(folder, rescale(checkpoint, folder / what, what, factor))


@pytest.mark.parametrize(
    ("what", "exponent", "kept", "recommended"),
    [
        ("value", 17, ("attention.self.qkv", "attention.output.dense"), True),
        ("query", 17, ("attention.self.qkv", "attention.self"), True),
        ("hidden", 15, ("attention.self.qkv", "intermediate.dense", "LayerNorm"), True),
    ],
)
def test_a_checkpoint_that_breaks_plain_fp16_passes(
    make_checkpoint: Callable[..., Path],
    tmp_path: Path,
    what: str,
    exponent: int,
    kept: tuple[str, ...],
    recommended: bool,
) -> None:
    checkpoint = make_checkpoint()
    plain = Sentiment(tmp_path, checkpoint)
    scaled = rescaled(tmp_path, checkpoint, what, 2.0**exponent)
    assert np.abs(scaled.logits - plain.logits).max() < 1e-4 * np.abs(plain.logits).max()

    classes = transformers.DebertaV2ForSequenceClassification
    broken = classes.from_pretrained(scaled.checkpoint).half().eval()
    with torch.no_grad():
        theirs = broken(**{name: torch.from_numpy(ids) for name, ids in scaled.feeds.items()})
    assert not theirs.logits.isfinite().any()
    naive, _ = convert(scaled.graph, "fp16", None)
    assert not np.isfinite(run_rounded(naive, scaled.feeds)[0]).any()

    path, report = convert(scaled.graph, "fp16", scaled.ranges)
    assert scaled.error(path) < 5e-3
    assert report.kept_share > 0
    assert report.recommend_bf16 is recommended
    modules = {item.module for item in report.kept_fp32}
    for part in kept:
        assert any(module.endswith(part) for module in modules), part
    # By name, each with what it reaches, and all of it measured.
    known = {*scaled.ranges, *ir.load(scaled.graph).graph.initializers}
    for item in report.kept_fp32:
        assert item.name in known
        assert item.reason
        assert item.absmax is not None

    path, report = convert(scaled.graph, "bf16", scaled.ranges)
    assert report.kept_share == 0
    assert scaled.error(path) < 4e-2


@pytest.mark.parametrize(("what", "exponent"), [("value", -24), ("value", 12), ("query", 12)])
def test_small_elements_that_matter_are_not_lost(
    make_checkpoint: Callable[..., Path], tmp_path: Path, what: str, exponent: int
) -> None:
    """fp16 has neither the small values nor the weights that large values multiply."""
    scaled = rescaled(tmp_path, make_checkpoint(), what, 2.0**exponent)
    path, report = convert(scaled.graph, "fp16", scaled.ranges)
    assert scaled.error(path) < 5e-3
    if exponent < 0:
        plain, _ = convert(scaled.graph, "fp16", None)
        assert scaled.error(plain) > 0.05
        assert any("small elements" in item.reason for item in report.kept_fp32)


def test_the_safety_factor_decides(cases: Callable[[int], Case]) -> None:
    case = cases(2)
    reach = max(r.absmax for name, r in case.ranges.items() if "/" not in name)
    _, loose = convert(case.graph, "fp16", case.ranges, safety_factor=65504 / (reach * 1.01))
    _, tight = convert(case.graph, "fp16", case.ranges, safety_factor=65504 / (reach * 0.1))
    assert loose.kept_fp32 == ()
    assert tight.kept_fp32
    assert tight.converted_nodes < loose.converted_nodes


def test_what_was_not_measured_stays(cases: Callable[[int], Case]) -> None:
    case = cases(3)
    qkv = next(n.inputs[0] for n in attention_nodes(ir.load(case.graph)))
    assert qkv is not None
    ranges = {name: found for name, found in case.ranges.items() if name != qkv.name}
    _, report = convert(case.graph, "fp16", ranges)
    assert [(k.name, k.reason) for k in report.kept_fp32] == [
        (qkv.name, "its range was not measured")
    ]
    assert report.attention_nodes == case.fields["num_hidden_layers"] - 1


@pytest.mark.parametrize("term", SCORE_TERMS)
@pytest.mark.parametrize(("dtype", "limit"), [("fp16", 128.0), ("bf16", 16.0)])
def test_large_terms_of_scores_are_computed_in_fp32(
    cases: Callable[[int], Case], dtype: HalfName, limit: float, term: str
) -> None:
    case = cases(3)
    name = next(name for name in case.ranges if name.endswith(term))
    small = {other: ValueRange(0.0, 1.0) for other in case.ranges if other.endswith(SCORE_TERMS)}
    below = {**case.ranges, **small, name: ValueRange(-limit, 0.0)}
    _, report = convert(case.graph, dtype, below)
    assert report.fp32_terms == ()
    above = {**case.ranges, **small, name: ValueRange(-1.0, limit * 1.001)}
    path, report = convert(case.graph, dtype, above)
    assert report.fp32_terms == (term.rpartition(".")[2],)
    assert [item.name for item in report.kept_fp32] == [name]
    assert report.attention_nodes == case.fields["num_hidden_layers"]
    assert report.kept_share == 0

    model = ir.load(path)
    InlinePass()(model)
    infer_types(model)
    products = [n for n in model.graph if any(t in (n.outputs[0].name or "") for t in SCORE_TERMS)]
    assert len(products) == 3 * report.attention_nodes
    for node in products:
        wide = term in (node.outputs[0].name or "")
        assert set(floats(node)) == {ir.DataType.FLOAT if wide else HALF_TYPES[dtype].onnx}
    assert case.error(run_rounded(path, case.feeds)) < BOUNDS[dtype]


def test_without_ranges_scores_are_fp32(cases: Callable[[int], Case]) -> None:
    _, report = convert(cases(3).graph, "bf16", None)
    assert len(report.fp32_terms) == 3
    assert report.kept_fp32 == ()
