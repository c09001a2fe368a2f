"""The command line: output, messages, exit codes, and what is left behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
from click.testing import CliRunner
from support.command_line import assert_one_message, call

import exporter.commands.build as build_command
from exporter.artifact.manifest import Source
from exporter.cli import cli
from exporter.errors import MissingDependencyError

MakeArtifact = Callable[[str], Path]
COMMANDS = ("build", "parity", "run", "score", "bench", "inspect", "doctor")


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
        (
            ["build", "x", "--target", "onnx", "--attention", "graph"],
            "--attention: --target onnx builds no engine",
        ),
        (["build", "x", "--target", "onnx", "--profile", "1x8"], "--profile: --target onnx builds"),
        (
            ["build", "x", "--precision", "int8", "--quantize-layers", "5-1"],
            "layers '5-1': give numbers and ranges, as in 0-5,8",
        ),
        (
            ["build", "x", "--precision", "int8", "--quantize-exclude", "("],
            "'(' is not a regular expression",
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
    import exporter.pipeline.build_artifact as pipeline_module

    class Manifest:
        passed = False
        files = skipped = engines = ()
        task = precision = "x"
        source = Source("x", False, ())
        graph: ClassVar[dict[str, object]] = {}

    monkeypatch.setattr(pipeline_module, "build_and_judge", lambda *given: (Manifest(), None))
    monkeypatch.setattr("exporter.parity.report.text.to_table", lambda result: "table")
    assert call(capsys, "build", "x")[0] == 1


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
        (MissingDependencyError("no GPU"), 3, "error: no GPU"),
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


@pytest.mark.parametrize(
    ("arguments", "now"),
    [
        (["build", "/no/such", "--labels"], "--calibration-labels"),
        (["parity", "/no/such", "--precision", "fp16"], "--limits-of"),
        (["bench", "/no/such", "--limits=fp16"], "--limits-of"),
    ],
)
def test_old_spellings_say_what_to_write(
    arguments: list[str], now: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(capsys, *arguments)
    warning, error = (line for line in err.splitlines() if not line.startswith("["))
    assert (code, error.startswith("error: ")) == (2, True)
    assert "No such option" not in error
    old = f"{arguments[0]} {arguments[2].partition('=')[0]}"
    assert warning == (f"warning: {old} is an old spelling, gone in the next release; write {now}")
