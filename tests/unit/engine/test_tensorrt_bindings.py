"""`tests/bindings`, in a process with TensorRT 11.4's real bindings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.bindings_libraries import compile_libraries, missing

TESTS = Path(__file__).parents[2] / "bindings"


def test_in_the_bindings(tmp_path: Path) -> None:
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    compile_libraries(tmp_path)
    report = tmp_path / "report.xml"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(TESTS), f"--junit-xml={report}"],
        env={**os.environ, "DEB_EXPORT_BINDINGS": str(tmp_path)},
        cwd=TESTS.parents[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (suite,) = ElementTree.parse(report).getroot().iter("testsuite")
    files = {path.stem for path in TESTS.glob("test_*.py")}
    ran = {case.attrib["classname"].rpartition(".")[2] for case in suite.iter("testcase")}
    assert ran == files
    assert suite.attrib["skipped"] == "0", done.stdout
