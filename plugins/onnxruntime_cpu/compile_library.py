"""Compiles the native operator, in place: `python -m plugins.onnxruntime_cpu.compile_library`.

The wheel and an editable install compile it where they find a compiler. GCC and Clang can: vectors
are their extension of the language.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FOLDER = Path(__file__).parent
LIBRARY = "libdeb_export_attention" + {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")

_X86 = platform.machine().lower() in ("x86_64", "amd64")
KERNELS: dict[str, tuple[str, ...]] = {
    "attention_call.cpp": (),
    "kernel_portable.cpp": (),
    "kernel_avx2.cpp": ("-mavx2", "-mfma") if _X86 else (),
    "kernel_avx512.cpp": ("-mavx512f",) if _X86 else (),
}
"""Each source with the instructions that it may use; which are used is chosen when it runs."""
_FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-fvisibility=hidden", "-fPIC")


class CompilerError(Exception):
    """There is no compiler, or it fails; what it said."""


def source_hash() -> str:
    """A hash of all sources, by which a library is known to be of these."""
    digest = hashlib.sha256()
    for path in sorted([*FOLDER.glob("*.cpp"), *FOLDER.glob("*.h")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def compile_library(target: Path) -> None:
    """Write the library to `target`, whole or not at all.

    Raises:
        CompilerError: see `compile_sources`.
        OSError: `target` cannot be written.
    """
    sources = {"operator.cpp": (f'-DSOURCE_HASH="{source_hash()}"',), **KERNELS}
    compile_sources(target, {FOLDER / name: own for name, own in sources.items()}, ("-shared",))


def compile_sources(
    target: Path, sources: Mapping[Path, Sequence[str]], link: Sequence[str], *flags: str
) -> None:
    """Compile sources, each with its own flags, and link them, whole or not at all.

    Args:
        target: what is written.
        sources: flags by file.
        link: flags of the last step alone.
        flags: of every step.

    Raises:
        CompilerError: there is no C++ compiler ($CXX, or c++, g++, clang++ on the path), or it
            fails.
        OSError: `target` cannot be written.
    """
    compiler = _compiler()
    with tempfile.TemporaryDirectory() as temporary:
        objects = {source: f"{Path(temporary) / source.name}.o" for source in sources}

        def compile_one(source: Path) -> None:
            options = (*_FLAGS, *flags, *sources[source], "-I", str(FOLDER))
            _call([*compiler, *options, "-c", str(source), "-o", objects[source]])

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(compile_one, sources))
        made = Path(temporary) / "made"
        _call([*compiler, *link, *flags, *objects.values(), "-o", str(made)])
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            shutil.copy(made, beside)
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)


def _compiler() -> list[str]:
    def found() -> Iterator[list[str]]:
        yield shlex.split(os.environ.get("CXX", ""))
        yield from ([name] for name in ("c++", "g++", "clang++"))

    for command in found():
        if command and shutil.which(command[0]) is not None:
            return command
    raise CompilerError("there is no C++ compiler (g++ or clang++)")


def _call(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        raise CompilerError(f"{command[0]} fails: {done.stderr.strip()[:2000]}")


def main() -> int:
    """Compile it beside its sources; 1, with what was wrong, where that cannot be done."""
    try:
        compile_library(FOLDER / LIBRARY)
    except (CompilerError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(FOLDER / LIBRARY)
    return 0


if __name__ == "__main__":
    sys.exit(main())
