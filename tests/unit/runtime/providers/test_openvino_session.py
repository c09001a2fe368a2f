"""OpenVINO against ONNX Runtime: every head, every precision, shapes, options, refusals."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from support.checkpoints import write_checkpoint
from support.half_models import convert, run_rounded
from support.site_graphs import SMALL, export_random, feeds, run

from calibration.formats import NumberFormat
from calibration.texts import TextItem
from exporter.deberta.checkpoint import open_checkpoint
from exporter.errors import InputError, MissingDependencyError
from exporter.graph.export import export_onnx
from exporter.model.model_shape import ModelShape
from exporter.model.task import ARCHITECTURES, Task
from exporter.parity.limits import Metric, limits_for
from exporter.precision.quantized.calibration_text import prepare_text
from exporter.precision.quantized.quantization_options import QuantizationOptions
from exporter.precision.quantized.quantize import quantize_file
from exporter.runtime.load import load, text_encoder
from exporter.runtime.providers import openvino_session, openvino_weights
from exporter.runtime.providers.integer_products import openvino_is_exact, quantized_product
from exporter.runtime.providers.openvino_session import OpenVinoSession
from exporter.runtime.runtime_options import RuntimeOptions

pytestmark = pytest.mark.usefixtures("shared_traces")

openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")

MakeArtifact = Callable[[str], Path]
TASK = Task.TOKEN_CLASSIFICATION
SHAPES = ((1, 1), (2, 2), (3, 63), (5, 77))
ONE = RuntimeOptions(threads=1)


def worst(session: OpenVinoSession, path: Path, fields: dict[str, Any], oracle: Any = run) -> float:
    """Largest error against ONNX Runtime at valid positions, relative to the output's scale."""
    errors = []
    for batch, length in SHAPES:
        inputs = feeds(fields, session.shape.task, batch, length)
        found = session.run(**inputs)
        for name, expected in zip(session.output_names, oracle(path, inputs), strict=True):
            assert found[name].dtype == np.float32
            assert found[name].shape == expected.shape
            errors.append(difference(found[name], expected, inputs["attention_mask"]))
    return max(errors)


def difference(found: NDArray[Any], expected: NDArray[Any], mask: NDArray[Any]) -> float:
    if found.shape[: mask.ndim] == mask.shape:
        found, expected = found[mask.astype(bool)], expected[mask.astype(bool)]
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def model_shape(folder: Path, task: Task) -> ModelShape:
    return open_checkpoint(folder, task).config.shape(task)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The graph of a random model in a folder with its checkpoint, and its fields."""
    return export_random(tmp_path_factory.mktemp("exported"), TASK)


@pytest.mark.parametrize("task", ARCHITECTURES.values(), ids=str)
def test_every_head(task: Task, make_artifact: MakeArtifact) -> None:
    folder = make_artifact(task.value)
    with load(folder, threads=1) as oracle, load(folder, "openvino", options=ONE) as session:
        assert session.name == "openvino f32"
        for batch, length in SHAPES:
            inputs = feeds({"vocab_size": 1000, "type_vocab_size": 0}, task, batch, length)
            expected, found = oracle.run(**inputs), session.run(**inputs)
            assert found.keys() == expected.keys()
            for name, values in found.items():
                assert difference(values, expected[name], inputs["attention_mask"]) < 1e-5


@pytest.mark.parametrize(
    "changes",
    [
        {"conv_kernel_size": 3, "conv_act": "gelu", "type_vocab_size": 2, "pos_att_type": ["c2p"]},
        {"relative_attention": False, "position_biased_input": True, "hidden_act": "gelu_new"},
    ],
    ids=["convolution", "absolute positions"],
)
def test_variants_of_the_architecture(changes: dict[str, Any], tmp_path: Path) -> None:
    path, fields = export_random(tmp_path, TASK, max_position_embeddings=128, **changes)
    with OpenVinoSession(path, model_shape(tmp_path, TASK), options=ONE) as session:
        assert worst(session, path, fields) < 1e-5


@pytest.mark.parametrize("half", ["fp16", "bf16"])
def test_half_graphs(half: Any, tmp_path: Path, exported: tuple[Path, dict[str, Any]]) -> None:
    path, fields = exported
    written, _ = convert(path, half, None)
    shape = model_shape(exported[0].parent, TASK)
    with OpenVinoSession(written, shape, options=ONE, half=half) as session:
        # With or without arithmetic of that type, and the rounding that comes with it.
        assert session.precision in {"f32", "f16", "bf16"}
        error = worst(session, written, fields, run_rounded)
    assert error < limits_for(half).bound(Metric.MAX_RELATIVE)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a graph of the tiny checkpoint in int8 or fp8; config.json lies beside it."""
    folder = tmp_path_factory.mktemp("quantized")
    checkpoint = open_checkpoint(write_checkpoint(folder / "checkpoint", TASK.value))
    export_onnx(checkpoint, folder / "fp32.onnx", external_data=True)
    shape = checkpoint.config.shape(TASK)
    encoder = text_encoder(checkpoint.folder, TASK, 40)
    assert encoder is not None
    words = "a splendid little camera small light and quick but the battery gets hot".split()
    texts = [" ".join(words[i % 11 : i % 11 + 1 + i % 7]) + f" {i}" for i in range(60)]
    text = prepare_text(encoder, shape, [TextItem(item) for item in texts])

    def make(precision: str, weight_bits: int = 8) -> Path:
        path = folder / f"{precision}-{weight_bits}.onnx"
        number, options = NumberFormat(precision), QuantizationOptions(weight_bits=weight_bits)
        quantize_file(folder / "fp32.onnx", path, shape, text, number, options, model_hash="a" * 64)
        return path

    return make


@pytest.mark.parametrize("weight_bits", [8, 7])
def test_int8_products_are_exact_here_too(weight_bits: int, quantized: Callable[..., Path]) -> None:
    path = quantized("int8", weight_bits)
    shape = model_shape(path.parent / "checkpoint", TASK)
    with OpenVinoSession(path, shape, options=ONE, weight_bits=weight_bits) as session:
        # A rounding that falls the other way moves one value by a step; saturation moves all.
        assert worst(session, path, {**SMALL, "type_vocab_size": 0}) < 1e-2
        inputs = feeds({**SMALL, "type_vocab_size": 0}, TASK, 4, 9)
        found = session.run(**inputs)["logits"]
    expected = run(path, inputs)[0]
    mask = inputs["attention_mask"].astype(bool)
    error = np.abs(found - expected)[mask].mean() / np.abs(expected)[mask].mean()
    assert error < 1e-3


@pytest.mark.parametrize("weight_bits", [8, 7])
def test_the_check_of_products_finds_what_is_computed(weight_bits: int) -> None:
    # Whatever this processor does, the check must not call a saturated sum exact.
    core = openvino.Core()
    largest = {8: 127, 7: 64}[weight_bits]
    content = quantized_product(np.full((256, 64), largest, np.int8))
    compiled = core.compile_model(core.read_model(content), "CPU", {})
    rows = np.full((2, 256), 127.0, np.float32)
    right = bool((compiled({"x": rows})[0] == 127.0 * largest * 256).all())
    assert right or not openvino_is_exact(core, "CPU", weight_bits)


def test_fp8_is_refused(quantized: Callable[..., Path]) -> None:
    path = quantized("fp8")
    with pytest.raises(InputError, match="OpenVINO cannot compute fp8 on a processor"):
        OpenVinoSession(path, model_shape(path.parent / "checkpoint", TASK))


def test_texts_give_what_onnx_runtime_gives(make_artifact: MakeArtifact) -> None:
    folder = make_artifact("sequence-classification")
    texts = [f"{'very ' * (i * 7 % 23)}good number {i}" for i in range(40)]
    with load(folder) as session:
        expected = session(texts)
    for options in (
        ONE,
        RuntimeOptions(threads=2, hint="throughput", tokens=64),
        RuntimeOptions(threads=1, window=7),
    ):
        with load(folder, "openvino", options=options) as session:
            found = session(texts)
        for one, other in zip(found, expected, strict=True):
            assert one.text == other.text  # type: ignore[union-attr]
            scores = [[label.score for label in item.labels] for item in (one, other)]  # type: ignore[union-attr]
            assert scores[0] == pytest.approx(scores[1], rel=1e-5)


@pytest.mark.parametrize("large", [1, 1 << 40])
def test_weights_of_any_size_and_place(
    large: int,
    tmp_path: Path,
    exported: tuple[Path, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openvino_weights, "LARGE_BYTES", large)
    path, fields = exported
    outside = tmp_path / "outside.onnx"
    onnx.save(
        onnx.load(path), outside, save_as_external_data=True, location="x.data", size_threshold=0
    )
    for file in (path, outside):
        with OpenVinoSession(file, model_shape(exported[0].parent, TASK), options=ONE) as session:
            assert worst(session, path, fields) < 1e-5


def test_weights_that_cannot_be_read_are_named(
    tmp_path: Path, exported: tuple[Path, dict[str, Any]]
) -> None:
    path, _ = exported
    shape = model_shape(exported[0].parent, TASK)
    outside, data = tmp_path / "outside.onnx", tmp_path / "x.data"
    onnx.save(onnx.load(path), outside, save_as_external_data=True, location=data.name)
    data.write_bytes(data.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"x\.data: ends before the weight"):
        OpenVinoSession(outside, shape)
    data.unlink()
    with pytest.raises(InputError, match=r"x\.data: cannot be read"):
        OpenVinoSession(outside, shape)
    model = onnx.load(outside, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../elsewhere.data"
    outside.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="lies outside this folder"):
        OpenVinoSession(outside, shape)


def test_compiled_models_are_kept(tmp_path: Path, exported: tuple[Path, dict[str, Any]]) -> None:
    path, fields = exported
    options = RuntimeOptions(threads=1, cache=tmp_path / "deep" / "cache")
    for _ in range(2):
        with OpenVinoSession(
            path, model_shape(exported[0].parent, TASK), options=options
        ) as session:
            assert worst(session, path, fields) < 1e-5
    assert list((tmp_path / "deep" / "cache").glob("*.blob"))
    (tmp_path / "file").write_text("x")
    options = RuntimeOptions(cache=tmp_path / "file" / "cache")
    with pytest.raises(InputError, match="cannot be written"):
        OpenVinoSession(path, model_shape(exported[0].parent, TASK), options=options)


def test_bf16_is_used_or_said_to_be_missing(make_artifact: MakeArtifact) -> None:
    folder = make_artifact("token-classification")
    ids = np.random.default_rng(5).integers(3, 1000, (3, 37))
    with load(folder) as session:
        expected = session.run(input_ids=ids)["logits"]
    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with load(folder, "openvino", options=RuntimeOptions(precision="bf16")) as session:
            found = session.run(input_ids=ids)["logits"]
            name = session.name
    messages = [str(item.message) for item in told if item.filename == __file__]
    if "BF16" in able:
        assert (name, messages) == ("openvino bf16", [])
    else:
        assert len(messages) == 1
        assert messages[0].startswith("precision bf16: this processor has no")
    limit = limits_for("bf16").bound(Metric.MAX_RELATIVE)
    assert np.abs(found - expected).max() < limit * np.abs(expected).max()


@pytest.mark.parametrize(
    ("asked", "half", "able", "taken"),
    [
        (None, None, {"FP32", "BF16"}, "f32"),
        (None, "fp16", {"FP32", "FP16"}, "f16"),
        (None, "fp16", {"FP32", "BF16"}, "f32"),
        (None, "bf16", {"FP32"}, "f32"),
        (None, "bf16", {"FP32", "BF16"}, "bf16"),
        ("f16", None, {"FP32", "BF16"}, "f32"),
        ("bf16", "fp16", {"FP32"}, "bf16"),
        ("f32", "bf16", {"FP32", "BF16"}, "f32"),
    ],
)
def test_no_half_arithmetic_without_instructions_for_it(
    asked: str | None, half: str | None, able: set[str], taken: str
) -> None:
    assert openvino_session._arithmetic(asked, half, frozenset(able)) == taken


def test_f16_is_never_computed_in_bf16(make_artifact: MakeArtifact) -> None:
    folder = make_artifact("token-classification")
    options = RuntimeOptions(threads=1, precision="f16")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with load(folder, "openvino", options=options) as session:
            name = session.name
    if "FP16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert (name, len(told)) == ("openvino f16", 0)
    else:
        assert name == "openvino f32"
        assert "precision f16: this processor has none, so OpenVINO computes in f32" in str(
            told[0].message
        )


@pytest.mark.parametrize(
    ("asked", "actual", "able", "told"),
    [
        (None, "f32", {"FP32"}, None),
        ("bf16", "bf16", {"FP32", "BF16"}, None),
        ("bf16", "f32", {"FP32"}, "computes in f32"),
        ("bf16", "bf16", {"FP32"}, "emulates it, slower"),
        ("f32", "f32", {"FP32", "BF16"}, None),
    ],
)
def test_what_is_said_of_the_processor(
    asked: str | None, actual: str, able: set[str], told: str | None
) -> None:
    notes = openvino_session._notes(asked, actual, frozenset(able))
    assert (len(notes), told or "") == ((0, "") if told is None else (1, told))
    assert told is None or told in notes[0]


def test_a_missing_openvino_says_how_to_get_it(
    make_artifact: MakeArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "deb-export\[openvino\]"'):
        load(make_artifact("base"), "openvino")


def test_unusable_graphs_are_one_message(
    tmp_path: Path, exported: tuple[Path, dict[str, Any]]
) -> None:
    path, _ = exported
    shape = model_shape(exported[0].parent, TASK)
    model = onnx.load(path)
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "unknown.onnx")
    with pytest.raises(InputError, match=r"OpenVINO .* cannot load it: .*NoSuchOperator"):
        OpenVinoSession(tmp_path / "unknown.onnx", shape)
    with pytest.raises(InputError, match="inputs and outputs are"):
        OpenVinoSession(path, replace(shape, task=Task.QUESTION_ANSWERING))
    with (
        OpenVinoSession(path, shape, options=ONE) as session,
        pytest.raises(InputError, match="vocab_size"),
    ):
        session.run(input_ids=[[10**6]])


def test_a_closed_session_says_so(make_artifact: MakeArtifact) -> None:
    session = load(make_artifact("base"), "openvino")
    session.close()
    with pytest.raises(InputError, match="closed"):
        session.run(input_ids=[[1]])


def test_a_failed_text_leaves_the_session_usable(make_artifact: MakeArtifact) -> None:
    options = RuntimeOptions(threads=2, hint="throughput", tokens=8)
    with load(make_artifact("sequence-classification"), "openvino", options=options) as session:
        first = session(["one", "two", "three"])
        broken = iter([{"input_ids": np.ones((1, 3), np.int64)}])
        with pytest.raises(KeyError):
            list(session._execute_all(broken))  # type: ignore[attr-defined]
        assert session(["one", "two", "three"]) == first
