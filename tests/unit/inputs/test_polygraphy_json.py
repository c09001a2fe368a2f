"""Inputs and outputs in Polygraphy's JSON, against Polygraphy itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from polygraphy.comparator import RunResults
from polygraphy.json import load_json

from exporter.cli import main
from exporter.errors import InputError
from exporter.inputs.polygraphy_json import read_inputs, read_outputs

RUN = "import sys; from polygraphy.tools import main; sys.exit(main())"


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_inputs_and_outputs_are_polygraphys(
    make_artifact: Callable[[str], Path],
    texts_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = make_artifact("sequence-classification")
    inputs, outputs, theirs = (tmp_path / f"{name}.json" for name in ("in", "out", "theirs"))
    saves = ("--save-inputs", inputs, "--save-reference", outputs)
    assert call(capsys, "parity", folder, "--data", texts_file, *saves)[0] == 0
    loaded = load_json(str(inputs))
    results = RunResults.load(str(outputs))
    assert len(loaded) == len(results["reference"]) > 6
    assert loaded[0]["input_ids"].dtype == np.int64

    # Its command runs our inputs, compares with our outputs, and saves its own.
    command = [sys.executable, "-c", RUN, "run", folder / "model.onnx", "--onnxrt"]
    command += ["--load-inputs", inputs, "--load-outputs", outputs, "--save-outputs", theirs]
    command += ["--atol", "1e-4", "--rtol", "1e-4"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    # What it saved is judged here.
    saved = ["--reference", folder, "--candidate", theirs, "--data", inputs]
    code, out, _ = call(capsys, "parity", *saved)
    assert (code, out.splitlines()[-1]) == (0, "parity: pass")
    assert "layers: not available (candidate: the file has outputs only)" in out
    wrong = RunResults.load(str(theirs))
    (name,) = wrong.keys()
    values = wrong[name][2]["logits"].copy()
    values[0, 0] += 0.1
    wrong[name][2]["logits"] = values
    wrong.save(str(theirs))
    code, out, _ = call(capsys, "parity", *saved)
    assert (code, out.splitlines()[-1]) == (1, "parity: FAIL")
    assert "'iteration 2'" in out

    # Outputs of other inputs, or without inputs, or as a reference, are refused.
    for arguments, message in (
        ([*saved[:-1], texts_file], "they are not from these inputs"),
        (saved[:-2], "give the inputs that they belong to with --data"),
        (["--reference", theirs, "--candidate", folder], "a candidate, not a reference"),
    ):
        code, out, err = call(capsys, "parity", *arguments)
        assert (code, out) == (2, "")
        assert message in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not JSON"),
        ("{}", "not (inputs|outputs) as polygraphy run"),
        ("[1]", "not (inputs|outputs) as polygraphy run"),
        (
            '[{"input_ids": {"array": "AAAA", "polygraphy_class": "ndarray"}}]',
            "damaged|not outputs",
        ),
        ('[{"input_ids": [1, 2]}]', "not an array of NumPy|not outputs"),
        ('{"lst": 3, "polygraphy_class": "RunResults"}', "malformed|not inputs"),
    ],
)
def test_files_that_are_not_polygraphys_are_refused(
    content: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "file.json"
    path.write_text(content)
    for read in (read_inputs, read_outputs):
        with pytest.raises(InputError, match=message):
            read(path)
