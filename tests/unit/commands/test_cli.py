"""The command line: output, messages, exit codes, and what is left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner

import exporter.commands.build as build_command
from exporter.cli import cli, main
from exporter.errors import ParityError
from exporter.parity.report.json import FORMAT

MakeArtifact = Callable[[str], Path]
COMMANDS = ("build", "parity", "run", "bench", "inspect", "doctor")


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def assert_one_message(err: str) -> None:
    """One or two lines, the first an error, no traceback."""
    lines = [line for line in err.splitlines() if not line.startswith("[")]
    assert 1 <= len(lines) <= 2, err
    assert lines[0].startswith("error: ")


@pytest.fixture
def copy(make_artifact: MakeArtifact, tmp_path: Path) -> Path:
    return Path(shutil.copytree(make_artifact("sequence-classification"), tmp_path / "copy"))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    result = CliRunner().invoke(cli, [command, "--help"])
    assert result.exit_code == 0
    assert "--debug" in result.output


def test_help_is_fast_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, time\nstart = time.perf_counter()\n"
        "from exporter.cli import main\nassert main(['--help']) == 0\n"
        "seconds = time.perf_counter() - start\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'onnx_ir', 'onnxscript', 'numpy'}\n"
        "print('heavy', sorted(heavy & set(sys.modules)))\nprint('seconds', seconds)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[-2] == "heavy []"
    # The promise is half a second for a process; this leaves room for a busy machine.
    assert float(lines[-1].split()[1]) < 0.5


def test_python_m_exporter() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "exporter", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("deb-export, version ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["buidl"], "No such command 'buidl'"),
        (["build", "--nope"], "No such option '--nope'"),
        (["run"], "Missing argument 'ARTIFACT'"),
        (["build", "x", "--precision", "int7"], "--precision 'int7': unknown; choose from fp32"),
        (
            ["build", "x", "--target", "tensorflow"],
            "--target 'tensorflow': unknown; choose from onnx, tensorrt, tensorrt-rtx",
        ),
        (["build", "x", "--seq", "9,1,2"], "--seq: range 9,1,2: give MIN,OPT,MAX"),
        (["build", "x", "--batch", "many"], "--batch 'many'"),
        (["build", "x", "--task", "none"], "--task 'none': unknown"),
        (["build", "/no/such/folder", "--output", "{tmp}/a"], "/no/such/folder: no such folder"),
        (["build", "{tmp}", "--output", "{tmp}/a"], "no config.json"),
        (["parity", "/no/such"], "/no/such: no such file or folder"),
        (["run", "{tmp}", "text"], "not an artifact"),
        (["inspect", "/no/such"], "no such file or folder"),
        (["inspect", "{tmp}"], "not an artifact"),
    ],
)
def test_wrong_use_is_exit_code_2_and_one_message(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    code, out, err = call(
        capsys, *(argument.replace("{tmp}", str(tmp_path)) for argument in arguments)
    )
    assert code == 2
    assert message in err
    assert out == ""
    assert_one_message(err)
    assert list(tmp_path.iterdir()) == []


def test_missing_texts_are_named(
    capsys: pytest.CaptureFixture[str], make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_checkpoint("base")
    code, _, err = call(
        capsys, "build", folder, "--data", "/none.txt", "--output", tmp_path / "out"
    )
    assert code == 2
    assert "/none.txt: cannot be read" in err
    assert_one_message(err)
    assert list(tmp_path.iterdir()) == []


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys)
    assert (code, out) == (2, "")
    assert "Commands:" in err


def test_build_prints_the_table_and_refuses_to_overwrite(
    capsys: pytest.CaptureFixture[str],
    make_checkpoint: Callable[..., Path],
    texts_file: Path,
    tmp_path: Path,
) -> None:
    output = tmp_path / "out"
    arguments = ["build", make_checkpoint("base"), "--data", texts_file, "--output", output]
    arguments += ["--target", "onnx"]
    code, out, err = call(capsys, *arguments)
    assert code == 0
    assert "parity: pass" in out
    assert out.splitlines()[-1].startswith(f"{output}: base, fp32, ")
    assert all(line.startswith("[") for line in err.splitlines())
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    assert "exists; choose another --output, or add --force" in err
    assert_one_message(err)


def test_a_build_outside_its_limits_is_exit_code_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import exporter.pipeline.build as pipeline_module

    class Manifest:
        passed = False
        files = skipped = ()
        task = precision = "x"
        graph: ClassVar[dict[str, object]] = {}

    monkeypatch.setattr(pipeline_module, "build_and_judge", lambda *given: (Manifest(), None))
    monkeypatch.setattr("exporter.parity.report.table.to_table", lambda result: "table")
    assert call(capsys, "build", "x")[0] == 1


def test_parity_passes_on_an_untouched_artifact(
    capsys: pytest.CaptureFixture[str], copy: Path, tmp_path: Path, texts_file: Path
) -> None:
    report = tmp_path / "report.json"
    code, out, _ = call(capsys, "parity", copy, "--data", texts_file, "--json", report)
    assert code == 0
    assert out.splitlines()[-1] == "parity: pass"
    data = json.loads(report.read_text())
    assert (data["format"], data["passed"]) == (FORMAT, True)
    code, out, _ = call(capsys, "parity", copy, "--data", texts_file, "--json", "-")
    assert code == 0
    assert json.loads(out)["passed"] is True


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(bytes(content))


def test_parity_fails_on_a_changed_weight(
    capsys: pytest.CaptureFixture[str], copy: Path, texts_file: Path
) -> None:
    graph = copy / "model.onnx"
    content = graph.read_bytes()
    # A byte that ends up in a float: the file still loads, and the models are compared.
    flip(graph, len(content) // 2)
    code, out, err = call(capsys, "parity", copy, "--data", texts_file)
    assert code == 1
    assert "FAIL model.onnx changed: SHA-256" in out
    assert out.splitlines()[-1] == "parity: FAIL"
    assert "Traceback" not in err


@pytest.mark.parametrize("name", ["model.onnx", "config.json", "spm.model"])
def test_parity_fails_on_a_file_that_is_gone_or_cut(
    capsys: pytest.CaptureFixture[str], copy: Path, texts_file: Path, name: str
) -> None:
    path = copy / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    code, out, _ = call(capsys, "parity", copy, "--data", texts_file)
    assert code == 1
    assert f"FAIL {name} changed" in out
    path.unlink()
    code, out, _ = call(capsys, "parity", copy, "--data", texts_file)
    assert code == 1
    assert f"FAIL {name} missing" in out


def test_parity_refuses_another_checkpoint(
    capsys: pytest.CaptureFixture[str],
    copy: Path,
    texts_file: Path,
    make_checkpoint: Callable[..., Path],
) -> None:
    other = make_checkpoint("sequence-classification", seed=8)
    code, _, err = call(capsys, "parity", copy, "--data", texts_file, "--checkpoint", other)
    assert code == 2
    assert "not the checkpoint that the artifact was built from: model.safetensors changed" in err
    assert_one_message(err)


def test_parity_finds_a_checkpoint_that_has_moved(
    capsys: pytest.CaptureFixture[str],
    copy: Path,
    texts_file: Path,
    make_checkpoint: Callable[..., Path],
    tmp_path: Path,
) -> None:
    moved = shutil.copytree(make_checkpoint("sequence-classification"), tmp_path / "moved")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["source"]["folder"] = "/gone"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    code, _, err = call(capsys, "parity", copy, "--data", texts_file)
    assert code == 2
    assert "/gone: the source checkpoint is gone; name its folder: --checkpoint" in err
    code, out, _ = call(capsys, "parity", copy, "--data", texts_file, "--checkpoint", moved)
    assert (code, out.splitlines()[-1]) == (0, "parity: pass")


def test_parity_says_when_the_report_cannot_be_written(
    capsys: pytest.CaptureFixture[str], copy: Path, texts_file: Path
) -> None:
    code, _, err = call(capsys, "parity", copy, "--data", texts_file, "--json", "/no/such/x.json")
    assert code == 2
    assert "/no/such/x.json: there is no folder /no/such" in err


@pytest.mark.parametrize(
    ("task", "arguments", "expected"),
    [
        ("sequence-classification", ["Good."], "  LABEL_"),
        ("sequence-classification", [""], "  LABEL_"),
        ("sequence-classification", ["a", "b", "--pair", "c", "--pair", "d"], "b | d"),
        ("token-classification", ["Some words"], "0-"),
        ("token-classification", [""], "no tokens"),
        ("question-answering", ["Who?", "--pair", "It was me."], "Who?"),
        ("question-answering", ["Who?", "--pair", ""], "no answer: the context is empty"),
        ("masked-lm", ["A [MASK] day"], "mask 1:"),
        ("masked-lm", ["A day"], "no mask token in the text"),
        ("multiple-choice", ["So", "--pair", "yes", "--pair", "no", "--pair", "x"], "* "),
        ("base", ["A text"], "mean of"),
    ],
)
def test_run_prints_the_answer_of_every_head(
    task: str,
    arguments: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    make_artifact: MakeArtifact,
) -> None:
    code, out, err = call(capsys, "run", make_artifact(task), *arguments)
    assert (code, err) == (0, "")
    assert expected in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "--pair", "b", "--pair", "c"], "1 texts and 2 --pair"),
        (["--pair", "b"], "--pair needs a TEXT"),
        (["a", "--provider", "tpu"], "provider 'tpu': unknown; choose from cpu, cuda"),
        (["a", "--threads", "0"], "threads is 0"),
        (["bad \udcff text"], "surrogate"),
    ],
)
def test_run_refuses(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    make_artifact: MakeArtifact,
) -> None:
    code, out, err = call(capsys, "run", make_artifact("sequence-classification"), *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert_one_message(err)


def test_run_warns_about_a_text_that_is_cut(
    capsys: pytest.CaptureFixture[str], make_artifact: MakeArtifact
) -> None:
    code, out, err = call(capsys, "run", make_artifact("sequence-classification"), "word " * 500)
    assert code == 0
    assert "LABEL_0" in out
    assert err.startswith("warning: text cut to 160 tokens: 'word word")
    assert len(err.splitlines()) == 1


def run_process(
    *arguments: object, stdin: bytes = b"", **options: Any
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "exporter", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **options,
    )


def test_run_reads_lines_and_writes_json_lines(make_artifact: MakeArtifact) -> None:
    folder = make_artifact("sequence-classification")
    done = run_process("run", folder, "--json", stdin="eins ü\n\nzwei\tdrei\r\n".encode())
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert [(item["text"], item["pair"]) for item in found] == [
        ("eins ü", None),
        ("", None),
        ("zwei", "drei"),
    ]
    for item in found:
        assert sum(label["score"] for label in item["labels"]) == pytest.approx(1.0)


def test_run_refuses_binary_input(make_artifact: MakeArtifact) -> None:
    done = run_process("run", make_artifact("base"), stdin=b"good\n\xff\xfe\n")
    assert done.returncode == 2
    assert b"stdin: line 2 is not UTF-8 text" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_closed_pipe_is_quiet(make_artifact: MakeArtifact) -> None:
    command = [sys.executable, "-m", "exporter", "run", str(make_artifact("base")), "--json"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(b"text\n" * 2000, timeout=60)
    assert process.returncode == 141
    assert err == b""


def test_inspect_describes_an_artifact_and_a_graph(
    capsys: pytest.CaptureFixture[str], make_artifact: MakeArtifact
) -> None:
    folder = make_artifact("question-answering")
    code, out, _ = call(capsys, "inspect", folder)
    assert code == 0
    for expected in ("question-answering, fp32", "parity     pass", "start_logits  FLOAT"):
        assert expected in out
    assert "attention  2 nodes for 2 layers" in out
    assert "function   deb_export::DisentangledAttention" in out
    code, out, _ = call(capsys, "inspect", folder / "model.onnx", "--json")
    graph = json.loads(out)
    assert code == 0
    assert graph["attention_nodes"] == graph["layers"] == 2
    assert graph["operators"]["deb_export::DisentangledAttention"] == 2
    assert graph["inputs"][0]["shape"] == ["batch", "sequence"]
    code, out, _ = call(capsys, "inspect", folder, "--json")
    assert json.loads(out)["manifest"]["task"] == "question-answering"


def test_inspect_says_what_has_changed(capsys: pytest.CaptureFixture[str], copy: Path) -> None:
    (copy / "model.onnx").write_bytes(b"short")
    code, out, _ = call(capsys, "inspect", copy)
    assert code == 1
    assert "CHANGED    model.onnx changed: 5 bytes" in out


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"text, not a graph"])
def test_inspect_refuses_what_is_no_graph(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    code, _, err = call(capsys, "inspect", tmp_path / "x.onnx")
    assert code == 2
    assert "not an ONNX file" in err
    assert_one_message(err)


def test_doctor_lists_software_and_targets(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "doctor")
    assert code == 0
    assert "target onnx: ready" in out
    assert "target tensorrt: not available" in out
    assert "provider cpu: ready" in out
    assert "provider openvino: " in out
    assert any(line.startswith("threads ") and "by default" in line for line in out.splitlines())
    assert "int8         products " in out and "products unknown" not in out
    assert "plugin attention for tensorrt: not available, TensorRT" in out
    assert any(line.startswith("torch ") and " ok " in line for line in out.splitlines())


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (ParityError("outside"), 1, "error: outside"),
        (MemoryError(), 3, "error: not enough memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            3,
            "not enough",
        ),
        (OSError(28, "No space left on device"), 2, "error: No space left on device"),
        (PermissionError(13, "Permission denied", "/x"), 2, "error: /x: Permission denied"),
    ],
)
def test_failures_have_their_code_and_message(
    error: BaseException,
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(**options: object) -> None:
        raise error

    monkeypatch.setattr(build_command, "BuildConfig", fail)
    found, out, err = call(capsys, "build", "x")
    assert (found, out) == (code, "")
    assert message in err
    assert "Traceback" not in err


def test_a_defect_keeps_its_traceback_and_its_own_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**options: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(build_command, "BuildConfig", fail)
    code, _, err = call(capsys, "build", "x")
    assert code == 70
    assert "Traceback" in err
    assert "ZeroDivisionError: ours" in err
    assert "please report" in err


@pytest.mark.parametrize("place", ["before", "after"])
def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str], place: str) -> None:
    command = ["build", "--precision", "fp7"]
    command = ["--debug", *command] if place == "before" else [*command, "--debug"]
    code, _, err = call(capsys, *command)
    assert code == 2
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("error: --precision 'fp7'")
