"""The library of the native attention: compiled, found, refused where it is not right, used by
sessions, and without an error in memory."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from support.command_line import call
from support.native_attention import compiled

from exporter.artifact.manifest import MODEL_FILE, read_manifest
from exporter.environment import environment
from exporter.errors import InputError, MissingDependencyError
from exporter.graph.transforms.plain_form import write_plain
from exporter.pipeline.build_artifact import build
from exporter.pipeline.config import BuildConfig
from exporter.runtime.load import load, open_session
from exporter.runtime.providers import onnx_session
from exporter.runtime.runtime_options import KERNEL_VARIABLE, RuntimeOptions
from plugins.onnxruntime_cpu import native_library as finding
from plugins.onnxruntime_cpu.compile_library import (
    FOLDER,
    KERNELS,
    CompilerError,
    compile_library,
    compile_sources,
    main,
)
from plugins.onnxruntime_cpu.native_library import native_library

pytestmark = [
    pytest.mark.skipif(
        all(shutil.which(name) is None for name in ("c++", "g++", "clang++")),
        reason="there is no C++ compiler",
    ),
    pytest.mark.usefixtures("shared_traces"),
]

MakeArtifact = Callable[..., Path]
BODY, NATIVE = (RuntimeOptions(threads=1, attention_kernel=name) for name in ("body", "native"))
IDS = {"input_ids": [[1, 5, 9, 7, 2], [1, 4, 2, 0, 0]]}
IDS["attention_mask"] = [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions find the library that the tests compiled, also where none is installed."""
    monkeypatch.delenv(KERNEL_VARIABLE, raising=False)
    monkeypatch.setattr(onnx_session, "native_library", compiled)


def test_a_session_uses_it_by_default_and_says_so(make_artifact: MakeArtifact) -> None:
    folder = make_artifact()
    with load(folder) as session, load(folder, options=BODY) as body:
        assert session.name == f"onnxruntime cpu, native attention ({compiled().instructions})"
        assert body.name == "onnxruntime cpu"
        native, own = session.run(**IDS)["logits"], body.run(**IDS)["logits"]
    assert np.abs(native - own).max() <= 1e-5 * np.abs(own).max()


def test_the_variable_chooses_and_the_option_before_it(
    make_artifact: MakeArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KERNEL_VARIABLE, "body")
    with load(make_artifact()) as session:
        assert "native" not in session.name
    with load(make_artifact(), options=NATIVE) as session:
        assert "native" in session.name
    monkeypatch.setenv(KERNEL_VARIABLE, "nativ")
    with pytest.raises(InputError, match="attention_kernel 'nativ': unknown; choose from body, n"):
        load(make_artifact())


def test_without_the_library_the_body_runs_and_native_is_missing(
    make_artifact: MakeArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_session, "native_library", lambda: "not built")
    with load(make_artifact()) as session:
        assert session.name == "onnxruntime cpu"
    with pytest.raises(MissingDependencyError, match="attention kernel native: not built"):
        load(make_artifact(), options=NATIVE)


def test_a_library_that_is_not_right_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "library.so"
    assert "not built" in str(native_library(path))
    path.write_bytes(b"no library")
    assert "does not load" in str(native_library(path))
    path = shutil.copy(compiled().path, tmp_path / "other.so")
    assert not isinstance(native_library(path), str)
    monkeypatch.setattr(finding, "source_hash", lambda: "another")
    assert "was built from other sources" in str(native_library(path))


def test_a_graph_without_the_node_is_not_said_to_run_native(
    make_artifact: MakeArtifact, tmp_path: Path
) -> None:
    folder, plain = make_artifact(), tmp_path / "plain.onnx"
    write_plain(folder / MODEL_FILE, plain)
    manifest = read_manifest(folder)
    with open_session(folder, manifest, "cpu", graph=plain) as session:
        assert session.name == "onnxruntime cpu"
    with pytest.raises(InputError, match="has no attention that the native kernel takes"):
        open_session(folder, manifest, "cpu", NATIVE, graph=plain)
    with pytest.raises(InputError, match="provider 'torch' has no option 'attention_kernel'"):
        load(folder, "torch", options=RuntimeOptions(attention_kernel="native"))


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_other_precisions(
    precision: str, make_checkpoint: MakeArtifact, texts_file: Path, tmp_path: Path
) -> None:
    """fp16 runs native; bf16, which is run rounded, does not; int8 keeps its integer products."""
    config = BuildConfig(
        model=make_checkpoint(),
        output=tmp_path / "artifact",
        precision=precision,
        data=texts_file,
        targets=("onnx",),
    )
    assert build(config).passed
    if precision == "bf16":
        with load(config.output_folder) as session:
            assert session.name == "onnxruntime cpu, rounded as half"
        with pytest.raises(InputError, match="is rounded in the body of its attention"):
            load(config.output_folder, options=NATIVE)
        return
    with load(config.output_folder, options=NATIVE) as session:
        session.run(**IDS)
    kinds = []
    for library in (None, compiled()):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        options.log_severity_level = 4
        if library is not None:
            options.register_custom_ops_library(str(library.path))
        path = str(config.output_folder / MODEL_FILE)
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(tmp_path / "optimized.onnx", load_external_data=False).graph.node
        kinds.append(Counter(node.op_type for node in nodes))
    body, native = kinds
    layers = read_manifest(config.output_folder).graph["attention_nodes"]
    assert native["DisentangledAttention"] == layers
    assert native["Softmax"] == 0 and body["Softmax"] == layers
    same = ("MatMulIntegerToFloat", "QuantizeLinear", "DequantizeLinear", "BiasGelu", "Gelu")
    assert {kind: body[kind] for kind in same} == {kind: native[kind] for kind in same}


def test_parity_judges_the_kernel_that_is_chosen(
    make_artifact: MakeArtifact, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ("parity", make_artifact(), "--lengths", "5,33", "--no-reference-cache")
    for chosen, named in ((), True), (("--attention-kernel", "body"), False):
        code, out, _ = call(capsys, *short, *chosen)
        assert code == 0
        assert ("native attention" in out) is named
    code, _, err = call(capsys, *short, "--attention-kernel", "none")
    assert code == 2 and "choose from body, native" in err


def test_doctor_and_the_environment_name_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("exporter.environment.native_library", compiled)
    monkeypatch.setattr("exporter.commands.doctor.native_library", compiled)
    assert environment()["attention_kernel"] == f"native, {compiled().instructions}"
    _, out, _ = call(capsys, "doctor")
    name = "plugin attention for onnxruntime on a CPU"
    assert f"{name}: ready, native, {compiled().instructions}" in out
    monkeypatch.setattr("exporter.environment.native_library", lambda: "not built")
    monkeypatch.setattr("exporter.commands.doctor.native_library", lambda: "not built")
    assert environment()["attention_kernel"] == "body"
    _, out, _ = call(capsys, "doctor")
    assert f"{name}: not available, not built" in out


def test_what_compiling_needs_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "library.so"
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(CompilerError, match="false fails"):
        compile_library(target)
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompilerError, match="there is no C\\+\\+ compiler"):
        compile_library(target)
    assert main() == 1
    assert "there is no C++ compiler" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_no_error_in_memory_or_arithmetic(tmp_path: Path) -> None:
    """AddressSanitizer and UBSan over every kernel of this processor, against loops in double."""
    check = Path(__file__).parents[2] / "support" / "attention_check.cpp"
    flags = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    sources = {**{FOLDER / name: own for name, own in KERNELS.items()}, check: ()}
    compile_sources(tmp_path / "check", sources, (), *flags)
    # Leaks are looked for with ptrace, which containers forbid.
    variables = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run(
        [tmp_path / "check"], capture_output=True, text=True, check=False, env=variables
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split()[0] == "portable"
