"""Plans are recognised by their first bytes, whole or not."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from exporter.engine.plan_file import PlanHeader, check_version, read_header
from exporter.errors import InputError


def plan(tag: bytes = b"ftrt", version: tuple[int, ...] = (11, 1, 0, 106), **changes: int) -> bytes:
    """A plan as the builders write its first bytes, with 72 bytes behind them."""
    size, layout = changes.get("size", 100), changes.get("layout", 0)
    head = struct.pack("<4sIQQ", tag, layout, 2, size) + bytes(version)
    return head + bytes(100 - len(head))


@pytest.mark.parametrize(
    ("tag", "version", "expected"),
    [
        (b"ftrt", (10, 13, 0, 35), PlanHeader("tensorrt", "10.13.0.35", 100)),
        (b"vtrt", (1, 7, 1, 116), PlanHeader("tensorrt-rtx", "1.7.1.116", 100)),
    ],
)
def test_headers(tmp_path: Path, tag: bytes, version: tuple[int, ...], expected: object) -> None:
    path = tmp_path / "model.plan"
    path.write_bytes(plan(tag, version))
    assert read_header(path) == expected


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (plan()[:60], "cut short: 60 bytes instead of 100"),
        (plan() + b"x", "longer than it should be: 101 bytes"),
        (plan()[:27], "not a TensorRT engine"),
        (b"", "not a TensorRT engine"),
        (b"PK" + plan()[2:], "not a TensorRT engine"),
        (plan(layout=3), "format 3"),
    ],
)
def test_files_that_are_no_whole_plan(tmp_path: Path, content: bytes, names: str) -> None:
    path = tmp_path / "model.plan"
    path.write_bytes(content)
    with pytest.raises(InputError, match=names):
        read_header(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_header(tmp_path / "model.plan")


def test_an_engine_of_another_version_is_refused(tmp_path: Path) -> None:
    header = PlanHeader("tensorrt", "11.1.0.106", 100)
    path = tmp_path / "model.plan"
    check_version(path, header, "11.1.0.999")
    for installed in ("11.1.1.106", "11.4.0.10", "10.13.0.35"):
        with pytest.raises(InputError, match=rf"11\.1\.0\.106, but {installed} is installed"):
            check_version(path, header, installed)
