"""The plain form: what tools that read no functions make of it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import version_converter
from onnx.reference import ReferenceEvaluator
from support.checkpoints import write_checkpoint
from support.site_graphs import Feeds, feeds

from calibration.formats import NumberFormat
from exporter.artifact.manifest import MODEL_FILE, PLAIN_FILE, read_manifest
from exporter.cli import main
from exporter.deberta.checkpoint import open_checkpoint
from exporter.errors import InputError
from exporter.graph.export import export_onnx
from exporter.graph.transforms.plain_form import write_plain
from exporter.inputs.text_files import calibration_texts
from exporter.model.task import Task
from exporter.packaging import plain as plain_package
from exporter.precision.half.to_half import convert_file
from exporter.precision.quantized.calibration_text import prepare_text
from exporter.precision.quantized.quantization_options import QuantizationOptions
from exporter.precision.quantized.quantize import quantize_file
from exporter.runtime.load import text_encoder

pytestmark = pytest.mark.usefixtures("shared_traces")

TASK = Task.SEQUENCE_CLASSIFICATION
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small classifier in every precision."""
    folder = tmp_path_factory.mktemp("graphs")
    checkpoint = open_checkpoint(write_checkpoint(folder / "model", TASK.value), TASK)
    made = {name: folder / f"{name}.onnx" for name in PRECISIONS}
    export_onnx(checkpoint, made["fp32"], external_data=True)
    encoder = text_encoder(checkpoint.folder, TASK, 40)
    assert encoder is not None
    text = prepare_text(encoder, checkpoint.shape, calibration_texts(None, checkpoint.shape)[:40])
    convert_file(made["fp32"], made["fp16"], "fp16", text.batches.feeds, precision="fp16")
    convert_file(made["fp32"], made["bf16"], "bf16", text.batches.feeds, precision="bf16")
    for name in ("int8", "fp8"):
        number, options = NumberFormat(name), QuantizationOptions()
        shape = checkpoint.shape
        quantize_file(made["fp32"], made[name], shape, text, number, options, model_hash="")
    return made


@pytest.fixture(scope="module")
def plain(graphs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same in the plain form, in another folder."""
    folder = tmp_path_factory.mktemp("plain")
    for path in graphs.values():
        write_plain(path, folder / path.name)
    return {name: folder / path.name for name, path in graphs.items()}


def inputs(batch: int = 3, length: int = 19) -> Feeds:
    return feeds({"vocab_size": 1000, "type_vocab_size": 0}, TASK, batch, length)


def run(model: Path | bytes, given: Feeds, level: str = "ORT_ENABLE_ALL") -> NDArray[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    # Whatever the processor: exact int8 products.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(
        model if isinstance(model, bytes) else str(model), options
    )
    output: NDArray[Any] = session.run(None, given)[0]
    return output


def difference(found: NDArray[Any], expected: NDArray[Any]) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found.astype(np.float64) - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_function_is_left_and_outputs_are_equal(
    precision: str, graphs: dict[str, Path], plain: dict[str, Path]
) -> None:
    model = onnx.load(plain[precision])
    onnx.checker.check_model(model, full_check=True)
    assert not model.functions
    assert {item.domain for item in (*model.opset_import, *model.graph.node)} == {""}
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
    before = onnx.load(graphs[precision], load_external_data=False)
    assert list(model.metadata_props) == list(before.metadata_props)
    if precision != "bf16":  # for which ONNX Runtime has no kernels on a CPU
        for level in LEVELS:
            found, expected = (run(g[precision], inputs(), level) for g in (plain, graphs))
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_reference_of_onnx_runs_it(precision: str, plain: dict[str, Path]) -> None:
    (found,) = ReferenceEvaluator(onnx.load(plain[precision])).run(None, dict(inputs()))[:1]
    assert np.isfinite(found).all()
    if precision != "bf16":
        # It rounds in half where ONNX Runtime's kernels do not.
        bound = 2e-3 if precision == "fp16" else 2e-6
        assert difference(found, run(plain[precision], inputs())) < bound


@pytest.mark.parametrize("precision", ["fp32", "int8", "fp8"])
@pytest.mark.parametrize("opset", [21, 23])
def test_it_is_converted_to_later_opsets(
    opset: int, precision: str, plain: dict[str, Path]
) -> None:
    model = version_converter.convert_version(onnx.load(plain[precision]), opset)
    found = run(model.SerializeToString(), inputs())
    np.testing.assert_array_equal(found, run(plain[precision], inputs()))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_openvino_reads_the_file(precision: str, plain: dict[str, Path]) -> None:
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "LP_TRANSFORMS_MODE": "NO"}
    found = core.compile_model(core.read_model(plain[precision]), "CPU", settings)(inputs())[0]
    assert np.isfinite(found).all()
    if precision != "bf16":
        # In int8, a value on the edge of a step may round the other way.
        bound = {"fp32": 5e-6, "fp16": 2e-3, "int8": 1e-2}[precision]
        assert difference(found, run(plain[precision], inputs())) < bound


def _simplified(path: Path, fixed: bool) -> onnx.ModelProto:
    onnxsim = pytest.importorskip("onnxsim", reason="onnxsim is not installed")
    sizes = {name: list(value.shape) for name, value in inputs().items()} if fixed else None
    model, right = onnxsim.simplify(onnx.load(path), overwrite_input_shapes=sizes)
    assert right
    return model


def _slim(path: Path) -> onnx.ModelProto:
    onnxslim = pytest.importorskip("onnxslim", reason="onnxslim is not installed")
    return onnxslim.slim(onnx.load(path))


def _sanitized(path: Path, *options: str) -> onnx.ModelProto:
    pytest.importorskip("onnx_graphsurgeon", reason="ONNX-GraphSurgeon is not installed")
    target = path.with_name(f"sanitized-{path.name}")
    command = [sys.executable, "-c", "from polygraphy.tools import main; main()"]
    command += ["surgeon", "sanitize", "--fold-constants", str(path), "-o", str(target), *options]
    subprocess.run(command, check=True, capture_output=True)
    return onnx.load(target)


def _sanitized_fixed(path: Path) -> onnx.ModelProto:
    sizes = (f"{name}:{list(value.shape)}".replace(" ", "") for name, value in inputs().items())
    return _sanitized(path, "--override-input-shapes", *sizes)


def _optimized(path: Path) -> onnx.ModelProto:
    from onnxruntime.transformers import optimizer

    return optimizer.optimize_model(str(path), "bert", num_heads=3, hidden_size=24).model


TOOLS: dict[str, Callable[[Path], onnx.ModelProto]] = {
    "onnxsim": lambda path: _simplified(path, fixed=False),
    "onnxsim, fixed shapes": lambda path: _simplified(path, fixed=True),
    "onnxslim": _slim,
    "polygraphy surgeon sanitize": _sanitized,
    "polygraphy surgeon sanitize, fixed shapes": _sanitized_fixed,
    "optimizer of ONNX Runtime": _optimized,
}


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("tool", TOOLS)
def test_what_tools_make_of_it_computes_the_same(
    tool: str, precision: str, plain: dict[str, Path]
) -> None:
    found = run(TOOLS[tool](plain[precision]).SerializeToString(), inputs())
    assert difference(found, run(plain[precision], inputs())) < 2e-6


def test_onnx_runtime_converts_it_to_fp16(plain: dict[str, Path]) -> None:
    from onnxruntime.transformers import float16

    model = float16.convert_float_to_float16(onnx.load(plain["fp32"]), keep_io_types=True)
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds and onnx.TensorProto.FLOAT not in kinds
    error = difference(run(model.SerializeToString(), inputs()), run(plain["fp32"], inputs()))
    assert 0 < error < 1e-2


def test_onnx_runtime_quantizes_it(plain: dict[str, Path], tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(str(plain["fp32"]), str(tmp_path / "dynamic.onnx"))
    kinds = [node.op_type for node in onnx.load(tmp_path / "dynamic.onnx").graph.node]
    assert kinds.count("MatMulInteger") >= 8
    error = difference(run(tmp_path / "dynamic.onnx", inputs()), run(plain["fp32"], inputs()))
    assert 0 < error < 0.1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_tensorrt_rtx_parses_it(precision: str, plain: dict[str, Path]) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    logger = trt.Logger(trt.Logger.ERROR)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = trt.Builder(logger).create_network(flags)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(plain[precision])), parser.get_error(0)


def test_weights_beside_it_are_shared_and_elsewhere_copied(
    graphs: dict[str, Path], tmp_path: Path
) -> None:
    source = graphs["fp32"]
    beside = source.with_name("beside.onnx")
    assert write_plain(source, beside) == (beside,)
    assert beside.stat().st_size < 300_000
    target = tmp_path / "other.onnx"
    assert write_plain(source, target) == (target, tmp_path / "other.onnx.data")
    for path in (beside, target):
        np.testing.assert_array_equal(run(path, inputs()), run(source, inputs()))
    (tmp_path / "bad.onnx").write_bytes(b"\xff" * 99)
    with pytest.raises(InputError, match=r"bad\.onnx: not an ONNX file"):
        write_plain(tmp_path / "bad.onnx", tmp_path / "out.onnx")


def test_the_command_line_writes_it(
    tmp_path: Path,
    texts_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint, folder = write_checkpoint(tmp_path / "model", TASK.value), tmp_path / "out"
    command = ["build", str(checkpoint), "--output", str(folder), "--data", str(texts_file)]
    assert main([*command, "--target", "onnx", "--plain", "--seq", "1,8,40"]) == 0
    assert PLAIN_FILE in {item.path for item in read_manifest(folder).files}
    model = onnx.load(folder / PLAIN_FILE)
    assert not model.functions
    expected = run(folder / MODEL_FILE, inputs())
    np.testing.assert_array_equal(run(folder / PLAIN_FILE, inputs()), expected)

    target = tmp_path / "given.onnx"
    assert main(["package", str(folder), "--plain", str(target)]) == 0
    assert f"{target}: sequence-classification, fp32, plain" in capsys.readouterr().out
    np.testing.assert_array_equal(run(target, inputs()), expected)
    assert main(["package", str(folder), "--plain", str(target)]) == 2
    assert "given.onnx: exists; choose another name" in capsys.readouterr().err
    assert main(["package", str(folder), "--plain", str(tmp_path / "no" / "x.onnx")]) == 2
    assert main(["package", str(folder)]) == 2
    assert "give --triton DIR, --plain FILE or --hub DIR" in capsys.readouterr().err

    def full(source: Path, path: Path) -> None:
        path.write_bytes(b"begun")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(plain_package, "write_plain", full)
    names = sorted(tmp_path.iterdir())
    assert main(["package", str(folder), "--plain", str(tmp_path / "more.onnx")]) == 2
    assert sorted(tmp_path.iterdir()) == names
