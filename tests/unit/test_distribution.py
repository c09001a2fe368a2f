"""What is installed: the three packages with their data, and nothing that only makers run."""

from __future__ import annotations

import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PACKAGES = {"exporter", "calibration", "plugins"}


def setuptools_table() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        table: dict[str, Any] = tomllib.load(file)["tool"]["setuptools"]
    return table


def test_tools_benchmarks_and_tests_are_not_installed() -> None:
    patterns = setuptools_table()["packages"]["find"]["include"]
    folders = [path.name for path in ROOT.iterdir() if path.is_dir()]
    installed = {name for name in folders if any(fnmatch(name, item) for item in patterns)}
    assert installed == PACKAGES


def test_every_data_file_is_installed() -> None:
    for package, patterns in setuptools_table()["package-data"].items():
        folder = ROOT / package
        wanted = {path for pattern in patterns for path in folder.glob(pattern)}
        found = {
            path
            for path in folder.rglob("*")
            if path.is_file() and path.suffix not in {".py", ".pyc", ".so"}
        }
        assert found == wanted


def test_every_folder_of_modules_is_a_package() -> None:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for folder in path.relative_to(ROOT).parents[:-1]:
                assert (ROOT / folder / "__init__.py").is_file(), folder


def test_the_demo_is_data_alone() -> None:
    assert [path.name for path in (ROOT / "exporter" / "demo").rglob("*.py")] == ["__init__.py"]
