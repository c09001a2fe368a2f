"""The command line called in the process of a test."""

from __future__ import annotations

import pytest

from exporter.cli import main


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
