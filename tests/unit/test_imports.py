"""Imports run one way, and heavy packages load only where they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib.metadata import metadata, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
# From the ground up: each room, and the rooms above it in this table that its files may import
# ("exporter." left out). docs/architecture.md draws it.
ROOMS = {
    "plugins": "",
    "calibration": "plugins",
    "exporter.errors": "",
    "exporter.console": "",
    "exporter.svg": "",
    "exporter.progress": "",
    "exporter.environment": "plugins",
    "exporter.threads": "environment",
    "exporter.demo": "",
    "exporter.model": "errors",
    "exporter.artifact": "plugins calibration errors model",
    "exporter.deberta": "plugins calibration errors model",
    "exporter.graph": "plugins errors progress model artifact deberta",
    "exporter.metrics": "model",
    "exporter.inputs": "calibration errors demo model deberta metrics",
    "exporter.predictions": "errors console model deberta metrics inputs",
    "exporter.engine": "plugins calibration errors progress environment model artifact graph",
    "exporter.runtime": "plugins errors threads demo model artifact deberta graph inputs "
    "predictions engine",
    "exporter.precision": "plugins calibration errors progress console model artifact deberta "
    "graph metrics inputs runtime",
    "exporter.parity": "calibration errors progress console svg environment model artifact deberta "
    "graph metrics inputs engine runtime precision",
    "exporter.packaging": "errors console model artifact deberta graph engine",
    "exporter.bench": "errors console progress svg environment model artifact metrics inputs "
    "runtime parity",
    "exporter.scoring": "calibration errors progress environment artifact inputs "
    "predictions runtime",
    "exporter.pipeline": "calibration errors progress environment demo model artifact deberta "
    "graph inputs engine runtime precision parity",
    "exporter.commands": "plugins calibration errors console progress threads environment model "
    "artifact deberta inputs predictions engine runtime precision parity packaging bench scoring "
    "pipeline",
    "exporter.cli": "errors progress environment commands",
    "exporter.__main__": "cli",
    "exporter": "model artifact runtime pipeline",
}
HEAVY = ("torch", "onnx", "onnxruntime", "onnx_ir", "onnxscript", "tensorrt", "tensorrt_rtx")
HEAVY += ("triton", "polygraphy", "transformers", "openvino", "ray", "pyarrow")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


SOURCES = {
    name_of(path): path
    for package in ("plugins", "calibration", "exporter")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def allowed(room: str) -> set[str]:
    names = ROOMS[room].split()
    return {name if name in ("plugins", "calibration") else f"exporter.{name}" for name in names}


def room_of(module: str) -> str:
    """The package of ours that a module belongs to; `exporter/__init__.py` is one of its own."""
    inside = [room for room in ROOMS if f"{module}.".startswith(f"{room}.") and room != "exporter"]
    return inside[0] if inside else module


def imported(path: Path) -> set[str]:
    """Modules that a file imports anywhere, also inside functions and for types alone."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction"
            module = node.module or ""
            inner = {f"{module}.{alias.name}" for alias in node.names} & set(SOURCES)
            names |= inner or {module}
    return names


IMPORTED = {name: imported(path) for name, path in SOURCES.items()}
OURS = {name: {item for item in names if item in SOURCES} for name, names in IMPORTED.items()}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_above_it(room: str) -> None:
    before = list(ROOMS)[: list(ROOMS).index(room)]
    assert allowed(room) <= set(before)
    files = {name: names for name, names in OURS.items() if room_of(name) == room}
    used = set()
    for name, names in files.items():
        rooms = {room_of(item) for item in names} - {room}
        assert rooms <= allowed(room), f"{name} imports {rooms - allowed(room)}"
        used |= rooms
    assert used == allowed(room), f"{room} may import what it does not: {allowed(room) - used}"


def test_every_file_has_a_room() -> None:
    assert {room_of(name) for name in SOURCES} == set(ROOMS)


def test_a_file_name_occurs_once() -> None:
    """But for the commands and their options, whose files are named as what they call."""
    names = [
        path.name
        for name, path in SOURCES.items()
        if path.name != "__init__.py" and room_of(name) != "exporter.commands"
    ]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


def test_no_two_files_import_each_other() -> None:
    list(TopologicalSorter(OURS).static_order())  # raises CycleError, which names the files


def test_no_product_file_imports_transformers_tests_or_tools() -> None:
    for name, names in IMPORTED.items():
        tops = {item.split(".")[0] for item in names}
        assert not tops & {"transformers", "tests", "support", "tools", "benchmarks"}, name


def modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "exporter",
        "exporter.cli",
        "exporter.pipeline.config",
        "exporter.artifact.manifest",
        "calibration",
    ],
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
