"""The native operator as sessions find it: its library, if it is there and right."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

from plugins.disentangled_attention import contract
from plugins.onnxruntime_cpu.compile_library import FOLDER, LIBRARY, source_hash

BUILD_AGAIN = "python -m plugins.onnxruntime_cpu.compile_library"


@dataclass(frozen=True)
class NativeLibrary:
    """A library that can be given to `SessionOptions.register_custom_ops_library`."""

    path: Path

    @property
    def instructions(self) -> str:
        """Those that new sessions use: "avx512", "avx2" or "portable", the first that the processor
        has, or what $DEB_EXPORT_INSTRUCTIONS names."""
        call = _opened(self.path).deb_export_attention_instructions
        call.restype = ctypes.c_char_p
        found: bytes = call()
        return found.decode()

    def kernels_made(self) -> int:
        """How many nodes it was given in sessions that this thread opened."""
        found: int = _opened(self.path).deb_export_attention_kernels_made()
        return found


def native_library(path: Path | None = None) -> NativeLibrary | str:
    """The library beside its sources, or the one at `path`; why it cannot be used, if so."""
    path = path or FOLDER / LIBRARY
    if not path.is_file():
        return f"not built, there was no C++ compiler; {BUILD_AGAIN} builds it"
    try:
        library = _opened(path)
        library.deb_export_attention_sources.restype = ctypes.c_char_p
        sources: bytes = library.deb_export_attention_sources()
        version: int = library.deb_export_attention_version()
    except (OSError, AttributeError) as error:
        return f"{path} does not load ({error}); {BUILD_AGAIN} builds it again"
    if sources.decode() != source_hash() or version != contract.VERSION:
        return f"{path} was built from other sources; {BUILD_AGAIN} builds it again"
    return NativeLibrary(path)


def _opened(path: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(path))
