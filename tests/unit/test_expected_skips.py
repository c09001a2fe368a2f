"""In CI, a skip that is not listed fails: what .ci/run relies on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.expected_skips import expected

ROOT = Path(__file__).parents[2]
LISTED_FILE, LISTED_REASON = expected()[0]
LISTED = f"""
import pytest
def test_listed():
    pytest.skip("{LISTED_REASON}; and more")
@pytest.mark.xfail
def test_known_fault():
    assert False
"""
OTHER_REASON = 'import pytest\ndef test_other():\n    pytest.skip("something else")\n'
OTHER_FILE = (
    f'import pytest\n@pytest.mark.skipif(True, reason="{LISTED_REASON}")\ndef test_a(): ...\n'
)
MODULE = 'import pytest\npytest.importorskip("no_such_package")\ndef test_a(): ...\n'


def outcome(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-ra", "-p", "support.expected_skips", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    return subprocess.run(
        [*command, "-c", os.devnull, f"--rootdir={folder}", "."],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        check=False,
    )


def write(folder: Path, name: str, content: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def test_a_listed_skip_passes(tmp_path: Path) -> None:
    write(tmp_path, LISTED_FILE, LISTED)
    done = outcome(tmp_path)
    assert done.returncode == 0, done.stdout
    assert "1 skipped, 1 xfailed" in done.stdout


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "workers"])
@pytest.mark.parametrize(
    ("name", "content"),
    [(LISTED_FILE, OTHER_REASON), ("tests/test_x.py", OTHER_FILE), ("tests/test_x.py", MODULE)],
    ids=["another reason", "another file", "a module"],
)
def test_any_other_skip_fails(
    tmp_path: Path, name: str, content: str, options: tuple[str, ...]
) -> None:
    write(tmp_path, name, content)
    done = outcome(tmp_path, *options)
    assert done.returncode in (1, 2), done.stdout
    assert "skipped, and expected_skips.toml does not list it" in done.stdout


def test_every_listed_file_is_there_and_says_so() -> None:
    for file, reason in expected():
        text = (ROOT / file).read_text(encoding="utf-8")
        support = (ROOT / "tests/support/bindings_libraries.py").read_text(encoding="utf-8")
        assert reason in text or reason in support, f"{file}: {reason}"


def test_ci_runs_with_it(pytestconfig: pytest.Config) -> None:
    assert "export CI=true" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    registered = pytestconfig.pluginmanager.has_plugin("expected_skips")
    assert registered == (os.environ.get("CI") == "true")
