"""TensorRT 11's Python bindings load without TensorRT: three tiny libraries satisfy the loader.

The bindings (`tensorrt-cu13-bindings`) link to TensorRT's library, its ONNX parser and its plugins,
gigabytes that are not on PyPI. The lean runtime (`tensorrt-lean-cu13-libs`, 45 MB) is, and has the
plugin registry. Stand-ins of the three libraries, compiled here, add the few entry points that it
lacks. So all classes, enumerations and signatures are TensorRT's own, and plugins register in its
registry; there is no builder and no parser.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

# Each library and its source; what is not needed to register plugins gives null.
_SOURCES = {
    "libnvinfer.so.11": """
        extern void* getPluginRegistry(void);
        void* getBuilderPluginRegistry(int capability) { return getPluginRegistry(); }
        void* createInferBuilder_INTERNAL(void* logger, int version) { return 0; }
    """,
    "libnvonnxparser.so.11": """
        void* createNvOnnxParser_INTERNAL(void* network, void* logger, int version) { return 0; }
        void* createNvOnnxParserRefitter_INTERNAL(void* refitter, void* logger, int version) {
          return 0;
        }
        int getNvOnnxParserVersion(void) { return 0; }
    """,
    "libnvinfer_plugin.so.11": """
        _Bool initLibNvInferPlugins(void* logger, char const* library_namespace) { return 1; }
    """,
}


def missing() -> str | None:
    """Why the bindings cannot be loaded here; None when they can be."""
    if not sys.platform.startswith("linux"):
        return f"there are no bindings for {sys.platform}"
    for module, distribution in (
        ("tensorrt_bindings", "tensorrt-cu13-bindings"),
        ("tensorrt_lean_libs", "tensorrt-lean-cu13-libs"),
    ):
        if find_spec(module) is None:
            return f"{distribution} is not installed: pip install {distribution}==11.4.*"
    if shutil.which("cc") is None:
        return "there is no C compiler"
    return None


def compile_libraries(folder: Path) -> None:
    """Write the three libraries into `folder`."""
    spec = find_spec("tensorrt_lean_libs")
    assert spec is not None and spec.origin is not None
    lean = Path(spec.origin).with_name("libnvinfer_lean.so.11")
    for name, source in _SOURCES.items():
        links = [str(lean), f"-Wl,-rpath,{lean.parent}"] if name == "libnvinfer.so.11" else []
        command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-x", "none", *links]
        command += [f"-Wl,-soname,{name}", "-o", str(folder / name)]
        subprocess.run(command, input=source, text=True, check=True)


def load(folder: Path) -> ModuleType:
    """Load the libraries in `folder`, and the bindings over them as `tensorrt`.

    For a process of its own: the libraries stay, and everything that asks for TensorRT gets this.
    """
    for name in _SOURCES:
        ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)
    # The bindings would look for the libraries of the full package otherwise.
    sys.modules["tensorrt_libs"] = ModuleType("tensorrt_libs")
    module = import_module("tensorrt_bindings")
    sys.modules["tensorrt"] = module
    return module
