"""A quantized graph whose rest is half: types of scales, numbers, integer kernels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support.checkpoints import write_checkpoint
from support.half_models import convert, run, run_rounded, session, widened

from calibration.formats import NumberFormat
from calibration.ranges import ValueRange, measure_ranges
from calibration.texts import TextItem
from exporter.deberta.checkpoint import open_checkpoint
from exporter.graph.export import export_onnx
from exporter.graph.transforms.infer_types import infer_types
from exporter.precision.half.types import HALF_TYPES, HalfName
from exporter.precision.quantized.calibration_text import CalibrationText, prepare_text
from exporter.precision.quantized.quantization_options import QuantizationOptions
from exporter.precision.quantized.quantize import quantize_file
from exporter.runtime.load import text_encoder
from exporter.runtime.providers.onnx_session import open_fp32

pytestmark = pytest.mark.usefixtures("shared_traces")

TABLE = "deberta.embeddings.word_embeddings.weight"
WORDS = "the film was long and I would not see it again a splendid little camera works".split()


class Case:
    """A checkpoint with texts, its fp32 graph, and the ranges on the texts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        checkpoint = open_checkpoint(write_checkpoint(folder / "c", "sequence-classification"))
        self.graph = folder / "fp32.onnx"
        export_onnx(checkpoint, self.graph, external_data=True)
        self.shape = checkpoint.shape
        encoder = text_encoder(checkpoint.folder, checkpoint.task, 40)
        assert encoder is not None
        rng = np.random.default_rng(0)
        texts = [" ".join(rng.choice(WORDS, rng.integers(1, 30))) for _ in range(48)]
        examples = [TextItem(text) for text in texts]
        self.text: CalibrationText = prepare_text(encoder, self.shape, examples)
        self.ranges: dict[str, ValueRange] = measure_ranges(
            self.graph, self.text.batches.feeds, open_fp32
        )

    def quantize(self, number: NumberFormat, half: HalfName | None) -> Path:
        """The quantized graph, what is not quantized in `half`."""
        path = self.folder / f"{number.value}.onnx"
        options = QuantizationOptions(rest="fp16")  # or bf16: position tables are left to it
        quantize_file(self.graph, path, self.shape, self.text, number, options, model_hash="a" * 64)
        return path if half is None else convert(path, half, self.ranges)[0]

    def logits(self, path: Path, rounded: bool) -> np.ndarray:
        execute = run_rounded if rounded else run
        return np.concatenate([execute(path, feeds)[0] for feeds in self.text.held_back.feeds])


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("case"))


@pytest.mark.parametrize("number", [NumberFormat.INT8, NumberFormat.FP8])
@pytest.mark.parametrize("half", ["fp16", "bf16"])
def test_the_rest_is_half_and_the_scales_are_fp32(
    case: Case, number: NumberFormat, half: HalfName
) -> None:
    path = case.quantize(number, half)
    onnx.checker.check_model(str(path), full_check=True)
    model = ir.load(path)
    infer_types(model)
    kind = HALF_TYPES[half].onnx
    seen: Counter[str] = Counter()
    for node in model.graph:
        values = [value for value in (*node.inputs, *node.outputs) if value is not None]
        types = {value.dtype for value in values}
        seen[node.op_type] += 1
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert types == {ir.DataType.FLOAT, number.dtype}, node.name
        if node.domain == "deb_export":
            assert kind in types and ir.DataType.FLOAT not in types
        if node.op_type == "MatMul":
            restored = node.inputs[1]
            assert restored is not None
            quantized = restored.producer() is not None
            assert types == {ir.DataType.FLOAT if quantized else kind} or "classifier" in str(
                restored.name
            )
    assert (seen["QuantizeLinear"], seen["DequantizeLinear"]) == (8, 16)
    # One cast to the attention and one back in a layer; words are int8.
    added = [n for n in model.graph if (n.name or "").endswith(".cast")]
    assert 2 * 2 <= len(added) <= 2 * 2 + 2
    assert model.graph.initializers[f"{TABLE}_scale"].dtype == ir.DataType.FLOAT
    assert model.graph.initializers[f"{TABLE}.int8"].dtype == ir.DataType.INT8

    # Half moves the outputs by less than the quantization does.
    quantized, ours = case.logits(case.quantize(number, None), False), case.logits(path, True)
    exact = case.logits(case.graph, False)
    moved = np.square(ours - quantized).mean() / np.square(quantized - exact).mean()
    # What fp16 rounds can cross a step of the format; fp8 has the wider ones.
    fp16 = {NumberFormat.INT8: 0.3, NumberFormat.FP8: 0.5}[number]
    assert moved < {"fp16": fp16, "bf16": 1.0}[half] ** 2


def test_onnx_runtime_still_takes_integer_kernels(case: Case) -> None:
    path = case.quantize(NumberFormat.INT8, "fp16")
    for source in (path, widened(path)):
        optimized = case.folder / "optimized.onnx"
        session(source, optimized_model_filepath=str(optimized))
        kinds = Counter(node.op_type for node in onnx.load(str(optimized)).graph.node)
        assert kinds["MatMulIntegerToFloat"] == 8
        assert kinds["DequantizeLinear"] == 0
