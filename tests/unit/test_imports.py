"""Imports run one way, and heavy packages load only where they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import metadata, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
# Each package and what it may import of ours.
ALLOWED = {
    "plugins": {"plugins"},
    "calibration": {"plugins", "calibration"},
    "exporter": {"plugins", "calibration", "exporter"},
}
HEAVY = ("torch", "onnx", "onnxruntime", "onnx_ir", "onnxscript", "tensorrt", "tensorrt_rtx")
HEAVY += ("triton", "polygraphy", "transformers", "openvino")


def sources() -> list[Path]:
    return [path for package in ALLOWED for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Top-level names that a file imports anywhere, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    assert imported(path) & set(ALLOWED) <= ALLOWED[package]


def test_only_the_demo_training_imports_transformers() -> None:
    for path in sources():
        names = imported(path)
        assert not names & {"tests", "support"}, path
        if "transformers" in names:
            assert path.relative_to(ROOT).parts[:2] == ("exporter", "demo"), path


def modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module", ["exporter", "exporter.cli", "exporter.config", "exporter.manifest", "calibration"]
)
def test_light_modules_load_nothing_heavy(module: str) -> None:
    assert not modules_after(f"import {module}") & set(HEAVY)


def test_heavy_packages_are_extras_only() -> None:
    required = [Requirement(text) for text in requires("deb-export") or ()]
    always = {r.name for r in required if r.marker is None}
    assert not always & {
        "torch",
        "onnxruntime",
        "tensorrt",
        "tensorrt-rtx",
        "triton",
        "polygraphy",
        "openvino",
    }
    extras = set(metadata("deb-export").get_all("Provides-Extra") or ())
    assert {"cpu", "gpu", "rtx", "test", "bench"} <= extras
