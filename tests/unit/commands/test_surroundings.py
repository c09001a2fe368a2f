"""Streams, paths, caches and packages as users have them: a message, or the work, no defect."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.command_line import assert_one_message, call

from exporter.cli import main
from exporter.deberta.tokenization import loading
from exporter.errors import InputError
from exporter.inputs.encode import as_item
from exporter.parity.store import default_folder
from exporter.pipeline.config import BuildConfig


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_streams(closed: tuple[int, ...], make_artifact: Callable[[str], Path]) -> None:
    command = [sys.executable, "-m", "exporter", "inspect", str(make_artifact("base"))]

    def close() -> None:
        for number in closed:
            os.close(number)

    done = subprocess.run(command, preexec_fn=close, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (b"base" in done.stdout) == (1 not in closed)


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
@pytest.mark.parametrize("form", [[], ["--format", "jsonl"]])
def test_a_terminal_without_unicode(
    encoding: str, form: list[str], make_artifact: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding))
    artifact = make_artifact("sequence-classification")
    assert main(["run", str(artifact), "schön ≤ 模型 👍", *form]) == 0
    sys.stdout.flush()
    text = raw.getvalue().decode(encoding)
    assert "\\u6a21\\u578b" in text
    assert "schön" in text or form
    if form:
        import json

        assert json.loads(text)["text"] == "schön ≤ 模型 👍"


@pytest.mark.parametrize("where", ["model", "output"])
def test_a_path_that_is_no_utf8(
    where: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    with pytest.raises(InputError, match="not UTF-8"):
        BuildConfig(**{where: path})  # type: ignore[arg-type]
    code, _, err = call(capsys, *(["build", path] if where == "model" else ["run", path, "x"]))
    assert code == 2
    assert_one_message(err)
    assert r"\udcff" in err


@pytest.mark.parametrize("kind", ["fast", "sentencepiece"])
def test_a_tokenizer_without_its_library(
    kind: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from support.tokenizer_files import write_tokenizer_files

    from exporter.errors import MissingDependencyError

    write_tokenizer_files(tmp_path / "t")
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="pip install") as caught:
        loading.load_tokenizer(tmp_path / "t", kind=kind)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("pair", [("a", None), ("a", 3), ("a", ["b", None]), (None, "a"), ("a",)])
def test_what_is_no_pair(pair: Any) -> None:
    with pytest.raises(InputError, match="give a text, or a pair of texts"):
        as_item(pair)


def test_a_cache_that_cannot_be_is_done_without(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    make_artifact: Callable[[str], Path], texts_file: Path,
) -> None:  # fmt: skip
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    artifact = make_artifact("sequence-classification")
    arguments = ["parity", artifact, "--data", texts_file, "--lengths", "none", "--no-layers"]
    code, out, err = call(capsys, *arguments)
    assert (code, "parity: pass" in out) == (0, True)
    assert "no cache (Not a directory), so the reference runs every time" in err
    code, _, err = call(capsys, *arguments, "--reference-cache", tmp_path / "file" / "own")
    assert code == 2
    assert_one_message(err)


def test_no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "deb-export" / "parity"
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # neither HOME nor an entry
    monkeypatch.chdir(tmp_path)
    assert default_folder().is_dir()
