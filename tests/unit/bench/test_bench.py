"""Measurements: what is compared and timed, who is wrong, the reports, the command's refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from support.checkpoints import VOCABULARY

from exporter.bench import measure
from exporter.bench.agreement import agreement, bounds_of
from exporter.bench.bench_config import BenchConfig, parse_shape
from exporter.bench.bench_report import to_json, to_table
from exporter.bench.measure import BenchResult, Timing, bench, time_in_turn
from exporter.bench.plot import to_svg
from exporter.bench.workloads import Workload
from exporter.cli import main
from exporter.deberta.configuration import DebertaConfig
from exporter.errors import InputError, MissingDependencyError
from exporter.model.task import Task
from exporter.parity.limits import Metric, limits_for
from exporter.runtime.runtime_options import RuntimeOptions

pytestmark = pytest.mark.usefixtures("shared_traces")

MakeArtifact = Callable[[str], Path]
ONE = RuntimeOptions(threads=1, attention_kernel="body")
QUICK: dict[str, Any] = {"rounds": 3, "warmup": 1, "options": ONE}


def changed_graph(folder: Path, target: Path, factor: float) -> Path:
    """The artifact's graph with its matrices multiplied; a LayerNorm would undo the embeddings'."""
    model = onnx.load(folder / "model.onnx")
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2:
            values = numpy_helper.to_array(tensor) * np.float32(factor)
            if tensor.dims[0] != VOCABULARY:
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, target)
    return target


@pytest.fixture(scope="module")
def artifact(make_artifact: MakeArtifact) -> Path:
    return make_artifact("sequence-classification")


@pytest.fixture(scope="module")
def result(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> BenchResult:
    """The artifact and a right and a wrong graph on two shapes and the texts of a file."""
    folder = tmp_path_factory.mktemp("bench")
    texts = folder / "texts.txt"
    texts.write_text("A joy from start to end.\nNo.\nIt stops after two minutes.\n\nNot bad\n")
    right = changed_graph(artifact, folder / "right.onnx", 1.0)
    wrong = changed_graph(artifact, folder / "wrong.onnx", 1.5)
    config = BenchConfig(
        artifact, (right, wrong), shapes=((1, 7), (3, 21)), data=texts, texts=3, **QUICK
    )
    return bench(config)


def test_a_wrong_graph_is_named_and_not_timed(result: BenchResult) -> None:
    assert [bool(entry.agreement) for entry in result.entries] == [True, True, False]
    assert not result
    assert [entry.name for entry in result.entries] == [
        "artifact, onnxruntime cpu",
        "right.onnx, onnxruntime cpu",
        "wrong.onnx, onnxruntime cpu",
    ]
    timed = {timing.contender for timing in result.timings}
    assert timed == {entry.name for entry in result.entries[:2]}
    assert result.entries[1].agreement.max_relative < 1e-6
    assert "outside the limits of fp32" in result.entries[2].agreement.verdict


def test_every_workload_has_every_round(result: BenchResult) -> None:
    assert [timing.workload for timing in result.timings] == ["1x7"] * 2 + ["3x21"] * 2 + [
        "texts"
    ] * 2
    for timing in result.timings:
        assert len(timing.seconds) == 3
        assert all(seconds > 0 for seconds in timing.seconds)
        low, high = timing.spread_ms
        assert low <= timing.latency_ms <= high
    assert [(t.sentences, t.tokens) for t in result.timings[:4]] == [(1, 7)] * 2 + [(3, 63)] * 2
    assert result.timings[4].sentences == 3  # the empty line does not count
    assert result.timings[4].tokens == result.timings[5].tokens > 9
    assert result.timings[0].ratio == 1.0


def test_the_table_says_all(result: BenchResult) -> None:
    table = to_table(result)
    for part in (
        "WRONG: outside the limits of fp32",
        "1x7 (1 sentences, 7 tokens)",
        "texts (3 sentences, ",
        "1 threads on a CPU, 3 rounds in turn",
        "latency_ms",
        "tokens/s",
    ):
        assert part in table
    assert max(map(len, table.splitlines())) < 110


def test_json_has_every_figure(result: BenchResult) -> None:
    content = json.loads(json.dumps(to_json(result), allow_nan=False))
    assert (content["format"], content["passed"]) == ("deb-export-bench", False)
    assert [item["right"] for item in content["contenders"]] == [True, True, False]
    assert len(content["timings"]) == 6
    first = content["timings"][0]
    assert first["latency_ms"] == pytest.approx(1e3 * sorted(first["seconds"])[1])
    assert first["tokens_per_second"] == pytest.approx(7e3 / first["latency_ms"])
    assert content["environment"]["onnxruntime"]


def test_the_plot_is_a_picture_with_a_bar_each(result: BenchResult) -> None:
    root = ET.fromstring(to_svg(result))
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{space}rect")) == 1 + len(result.timings)
    assert len(root.findall(f"{space}line")) == len(result.timings)
    width = float(root.attrib["width"])
    for bar in root.findall(f"{space}rect")[1:]:
        assert 0 < float(bar.attrib["x"]) + float(bar.attrib["width"]) <= width
    words = [item.text or "" for item in root.findall(f"{space}text")]
    assert any(word.startswith("3x21") for word in words)


def test_contenders_take_turns(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    clock = iter(range(1000))
    monkeypatch.setattr(measure, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(measure, "_run", lambda session, workload: order.append(session.name))
    bench(BenchConfig(artifact, providers=("cpu", "torch"), shapes=((1, 3),), rounds=4, warmup=1))
    one, other = order[:2]
    assert (one.startswith("onnxruntime cpu"), other) == (True, "torch fp32")
    assert order == [one, other, one, other, other, one, one, other, other, one]


def test_options_go_to_the_providers_that_have_them(artifact: Path) -> None:
    options = RuntimeOptions(threads=1, window=3)
    config = BenchConfig(artifact, providers=("cpu", "torch"), options=options, rounds=1)
    assert len(bench(replace(config, shapes=((2, 5),))).timings) == 2
    with pytest.raises(InputError, match="'torch' has no option 'threads'"):
        BenchConfig(artifact, providers=("torch",), options=options)


def test_openvino_is_held_to_its_arithmetic(artifact: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    options = RuntimeOptions(threads=1, precision="bf16")
    config = BenchConfig(
        artifact, providers=("cpu", "openvino"), shapes=((2, 9),), rounds=1, options=options
    )
    found = bench(config)
    assert found
    entry = found.entries[1]
    if "bf16" in entry.name:
        assert entry.agreement.limits == ("fp32", "bf16")
    else:
        assert entry.agreement.limits == ("fp32",)
        assert "computes in f32" in entry.notes[0]
        assert "note: artifact, openvino f32: precision bf16" in to_table(found)


@pytest.mark.parametrize("task", [Task.QUESTION_ANSWERING, Task.MULTIPLE_CHOICE, Task.BASE])
def test_other_heads(task: Task, make_artifact: MakeArtifact, tmp_path: Path) -> None:
    folder = make_artifact(task.value)
    wrong = changed_graph(folder, tmp_path / "wrong.onnx", 1.5)
    found = bench(BenchConfig(folder, (wrong,), shapes=((2, 11),), **QUICK))
    assert [bool(entry.agreement) for entry in found.entries] == [True, False]
    tokens = 66 if task is Task.MULTIPLE_CHOICE else 22
    assert found.timings[0].tokens == tokens


def test_limits_of_another_precision(artifact: Path, tmp_path: Path) -> None:
    near = changed_graph(artifact, tmp_path / "near.onnx", 1.01)
    config = BenchConfig(artifact, (near,), shapes=((2, 11),), **QUICK)
    assert not bench(config)
    assert bench(replace(config, limits="fp8"))
    limits = [limits_for(name).bound(Metric.MAX_RELATIVE) for name in ("fp32", "fp8")]
    assert bounds_of(["fp32", "fp8"])[0] == max(limits)


def test_figures_against_their_definitions() -> None:
    rng = np.random.default_rng(1)
    for count in (1, 2, 5, 10):
        values = rng.random(count).tolist()
        timing = Timing("8x4", 8, 32, "x", tuple(values), 1.0)
        assert timing.spread_ms == pytest.approx(1e3 * np.percentile(values, (20, 80)))
    timing = Timing("8x4", 8, 32, "x", (0.2, 0.1, 0.4), 1.0)
    assert timing.latency_ms == pytest.approx(200)
    assert timing.tokens_per_second == pytest.approx(160)
    assert timing.sentences_per_second == pytest.approx(40)


def judge(
    expected: Any, found: Any, mask: NDArray[Any], task: Task = Task.QUESTION_ANSWERING
) -> Any:
    shape = DebertaConfig.from_dict({"model_type": "deberta-v2"}).shape(task)
    feeds = {"input_ids": np.ones_like(mask), "attention_mask": mask}
    outputs = [{name: np.asarray(value) for name in shape.outputs} for value in (expected, found)]
    return agreement(shape, [feeds], [outputs[0]], [outputs[1]], ("fp32",))


def test_agreement_by_hand() -> None:
    mask = np.array([[1, 1, 0]])
    found = judge([[2.0, -4.0, 9.0]], [[2.0, -4.2, 1e9]], mask)
    assert found.max_relative == pytest.approx(0.05)
    assert found.rms_relative == pytest.approx(0.2 / np.sqrt(20))
    assert not found
    assert judge([[2.0, -4.0, 9.0]], [[2.0, -4.0, np.nan]], mask)
    assert judge([[2.0, -4.0, 0.0]], [[2.0, np.nan, 0.0]], mask).problem.endswith("infinity")
    assert "expected (1, 3)" in judge([[2.0, -4.0, 0.0]], [[2.0, 1.0]], mask).verdict
    assert not judge([[0.0, 0.0, 0.0]], [[0.0, 1e-9, 0.0]], mask)
    assert judge([[0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]], mask)


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["bench", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = changed_graph(artifact, tmp_path / "wrong.onnx", 1.5)
    files = ("--json", tmp_path / "b.json", "--plot", tmp_path / "b.svg")
    options = ("--shape", "1x5", "--rounds", 2, "--warmup", 0, "--threads", 1)
    code, out, _ = call(capsys, artifact, *options, *files)
    assert code == 0
    assert "1x5 (1 sentences, 5 tokens)" in out
    assert json.loads((tmp_path / "b.json").read_text())["passed"] is True
    assert ET.parse(tmp_path / "b.svg").getroot().tag.endswith("svg")
    code, out, _ = call(capsys, artifact, *options, "--against", wrong, "--json", "-")
    assert code == 1
    assert json.loads(out)["passed"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--against", "none.onnx"), "none.onnx: no such file"),
        (("--shape", "1x999"), "--shape 1x999: the artifact takes up to 160 tokens"),
        (("--shape", "0x5"), "--shape '0x5': give BATCHxLENGTH"),
        (("--shape", "5"), "--shape '5': give BATCHxLENGTH"),
        (("--provider", "tpu"), "--provider 'tpu': unknown"),
        (("--provider", "cpu", "--provider", "cpu"), "each one once"),
        (("--rounds", "0"), "--rounds 0: give at least 1"),
        (("--warmup", "-1"), "--warmup -1: give at least 0"),
        (("--threads", "0"), "threads is 0"),
        (("--data", "none.txt"), "none.txt: cannot be read"),
        (("--limits-of", "fp5"), "precision 'fp5': no parity limits"),
        (("--openvino-hint", "latency"), "'cpu' has no option 'hint'"),
        (("--json", "no/such/folder.json"), "folder.json: its folder does not exist"),
        (("--plot", "no/such/folder.svg"), "folder.svg: its folder does not exist"),
        (("--provider", "tensorrt-rtx"), "has no engine of tensorrt-rtx"),
    ],
)
def test_the_command_refuses(
    arguments: tuple[str, ...], message: str, artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, artifact, *arguments)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]


def test_other_inputs_no_graph_no_artifact(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(artifact / "model.onnx")
    model.graph.output[0].name = "other"
    model.graph.node[-1].output[0] = "other"
    onnx.save(model, tmp_path / "other.onnx")
    code, _, err = call(capsys, artifact, "--against", tmp_path / "other.onnx")
    assert (code, "inputs and outputs are" in err) == (2, True)
    (tmp_path / "bad.onnx").write_bytes(b"\xff" * 50)
    code, _, err = call(capsys, artifact, "--against", tmp_path / "bad.onnx")
    assert (code, "bad.onnx: ONNX Runtime" in err) == (2, True)
    code, _, err = call(capsys, tmp_path)
    assert (code, "not an artifact" in err) == (2, True)


def test_a_missing_provider_is_exit_code_3(
    artifact: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = call(capsys, artifact, "--provider", "cuda")
    assert (code, "CUDAExecutionProvider" in err) == (3, True)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError):
        bench(BenchConfig(artifact, providers=("openvino",)))


def test_an_artifact_without_tokenizer(artifact: Path, tmp_path: Path) -> None:
    import shutil

    bare = Path(shutil.copytree(artifact, tmp_path / "bare"))
    (bare / "spm.model").unlink()
    assert bench(BenchConfig(bare, shapes=((2, 9),), **QUICK))
    texts = tmp_path / "texts.txt"
    texts.write_text("one\n")
    with pytest.raises(InputError, match="no tokenizer; time a --shape"):
        bench(BenchConfig(bare, data=texts, **QUICK))


@pytest.mark.parametrize(("text", "shape"), [("8x128", (8, 128)), (" 1x1 ", (1, 1))])
def test_shapes(text: str, shape: tuple[int, int]) -> None:
    assert parse_shape(text) == shape


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_an_interrupt_ends_it_cleanly(artifact: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "exporter", "bench", str(artifact), "--rounds", "1000000"]
    command += ["--shape", "1x5", "--json", str(tmp_path / "b.json")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "round" in line:
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.strip().splitlines()[-1].endswith("interrupted")
    assert "Traceback" not in err
    assert not (tmp_path / "b.json").exists()


def test_sessions_take_turns_and_ratios_are_of_the_same_round(artifact: Path) -> None:
    order: list[str] = []
    now = 0.0

    class Sleeper:
        """Takes a time of its own on a clock that only it moves."""

        def __init__(self, name: str, seconds: float) -> None:
            self.name, self.seconds = name, seconds

        def run(self, **feeds: object) -> None:
            nonlocal now
            order.append(self.name)
            # Every run is slower than the one before, as on a machine that others load.
            now += self.seconds * (1 + len(order))

    feeds = {"input_ids": np.ones((2, 3), np.int64), "attention_mask": np.ones((2, 3), np.int64)}
    workload = Workload("2x3", 2, 6, feeds)
    sessions: Any = {name: Sleeper(name, 1.0 + index) for index, name in enumerate("abc")}
    timings = time_in_turn(workload, sessions, 3, 1, lambda message: None, lambda: now)
    assert order == [*"abc", *"abc", *"bca", *"cab"]
    runs = {"a": [5, 10, 12], "b": [6, 8, 13], "c": [7, 9, 11]}
    for factor, timing in enumerate(timings, 1):
        name = timing.contender
        assert timing.seconds == pytest.approx([factor * number for number in runs[name]])
        ratios = sorted(factor * x / y for x, y in zip(runs[name], runs["a"], strict=True))
        assert timing.ratio == pytest.approx(ratios[1])
        assert timing.tokens_per_second == pytest.approx(6 / sorted(timing.seconds)[1])
