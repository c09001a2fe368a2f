"""An artifact whose replacement is killed at any step is the old one or the new one, and whole."""

from __future__ import annotations

import os
import shutil
import signal
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.manifests import EMPTY

from exporter.artifact.files import verify_files
from exporter.artifact.manifest import MANIFEST, read_manifest
from exporter.artifact.writer import ArtifactWriter
from exporter.errors import InputError

OLD = {"model.onnx": "old graph", "calibration.json": "{}"}
NEW = {"model.onnx": "new graph", "more.plan": "engine"}

DONE = {"beside": 2, "mount": 6}
"""Steps until the new one is whole: two folders renamed; or each file, the old away, the new up."""

STEPS = {"beside": 3, "mount": 8}
"""With those that remove what is left."""


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def write(output: Path, files: dict[str, str], *, force: bool = False) -> None:
    with ArtifactWriter(output, force=force) as writer:
        for name, content in files.items():
            (writer.folder / name).write_text(content)
        writer.finish(replace(EMPTY, files=writer.records()))


def killed_at(step: int, action: Callable[[], None]) -> int:
    """The signal that ended a child which did `action`, killed before its step of that number."""
    child = os.fork()
    if child:
        return os.WTERMSIG(os.waitpid(child, 0)[1])
    left = step

    def counted(does: Callable[..., Any]) -> Callable[..., Any]:
        def step_of(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return does(*arguments, **options)

        return step_of

    Path.rename, shutil.rmtree = counted(Path.rename), counted(shutil.rmtree)  # type: ignore[method-assign]
    try:
        action()
    finally:
        os._exit(0)


@pytest.mark.parametrize(
    ("place", "step"), [(place, step) for place in STEPS for step in range(STEPS[place] + 1)]
)
def test_the_next_build_finds_one_of_the_two(
    place: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, ismount = tmp_path / "a", os.path.ismount
    write(output, OLD)
    if place == "mount":
        monkeypatch.setattr(os.path, "ismount", lambda path: path == output or ismount(path))
    ended = killed_at(step, lambda: write(output, NEW, force=True))
    assert ended == (signal.SIGKILL if step < STEPS[place] else 0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*left by a build that was killed")
        with pytest.raises(InputError, match="exists; choose another"):
            write(output, {})
    expected = NEW if step >= DONE[place] else OLD
    assert names(tmp_path) == {"a"}
    assert names(output) == {MANIFEST, *expected}
    assert {name: (output / name).read_text() for name in expected} == expected
    assert verify_files(output, read_manifest(output).files) == ()


def test_an_empty_mount_point_is_empty_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, ismount = tmp_path / "a", os.path.ismount
    output.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: path == output or ismount(path))
    assert killed_at(2, lambda: write(output, NEW)) == signal.SIGKILL
    with pytest.warns(UserWarning, match="left by a build that was killed; removed"):
        write(output, OLD)
    assert names(output) == {MANIFEST, *OLD}


def test_names_as_long_as_a_file_system_has(tmp_path: Path) -> None:
    output = tmp_path / ("x" * 255)
    write(output, OLD)
    write(output, NEW, force=True)
    assert names(tmp_path) == {output.name}
