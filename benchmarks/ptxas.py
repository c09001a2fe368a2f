"""Assembles PTX with `ptxas`, to know that it is valid and what it takes of a multiprocessor."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

# Shared memory that one program may have, bytes, by compute capability (CUDA programming guide,
# table of technical specifications).
SHARED_LIMITS = {80: 166912, 86: 101376, 89: 101376, 90: 232448, 100: 232448, 120: 101376}


@dataclass(frozen=True)
class Resources:
    """What `ptxas` reports for a kernel."""

    registers: int
    spill_bytes: int
    """Bytes stored and loaded because registers ran out."""
    assembler: str
    """Version, such as `13.0.88`."""


def find_assembler() -> Path | None:
    """`ptxas` on the path, of a CUDA toolkit, or of the Triton wheel; None without any."""
    on_path = shutil.which("ptxas")
    if on_path is not None:
        return Path(on_path)
    places = [Path("/usr/local/cuda/bin")]
    wheel = find_spec("triton")
    if wheel is not None and wheel.origin is not None:
        places.append(Path(wheel.origin).parent / "backends" / "nvidia" / "bin")
    for place in places:
        if (place / "ptxas").is_file():
            return place / "ptxas"
    return None


def directive(ptx: str, name: str) -> str:
    """Value of a directive at the beginning of PTX: `8.0` of `version`, `sm_90a` of `target`.

    Raises:
        ValueError: the PTX has none.
    """
    found = re.search(rf"^\.{name}\s+([^\s,]+)", ptx, re.MULTILINE)
    if found is None:
        raise ValueError(f"the PTX has no .{name}")
    return found[1]


def assemble(ptx: str, assembler: Path) -> Resources:
    """Assemble PTX for the target that it names.

    Args:
        ptx: the text.
        assembler: path of `ptxas`.

    Raises:
        ValueError: `ptxas` refuses it; the message has its words.
    """
    target = directive(ptx, "target")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx, encoding="utf-8")
        done = subprocess.run(
            [assembler, "-v", f"--gpu-name={target}", source, "-o", f"{folder}/kernel.cubin"],
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise ValueError(f"{assembler} refuses the PTX for {target}: {done.stderr.strip()}")
    registers = re.findall(r"Used (\d+) registers", done.stderr)
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", done.stderr)
    return Resources(max(map(int, registers)), sum(map(int, spills)), _version(assembler))


def _version(assembler: Path) -> str:
    done = subprocess.run([assembler, "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"V(\d[\d.]*)", done.stdout)
    return found[1] if found else "unknown"
