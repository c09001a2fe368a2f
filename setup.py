"""Compiles the native attention operator where there is a C++ compiler; the rest is in
pyproject.toml."""

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

sys.path.insert(0, str(Path(__file__).parent))

from plugins.onnxruntime_cpu.compile_library import (
    FOLDER,
    LIBRARY,
    CompilerError,
    compile_library,
)

PACKAGE = "plugins.onnxruntime_cpu"


class BuildLibrary(build_ext):
    """Compiles a library that ONNX Runtime loads, which is no module of Python."""

    def get_ext_filename(self, fullname: str) -> str:
        *packages, _ = fullname.split(".")
        return str(Path(*packages, LIBRARY))

    def build_extension(self, ext: Extension) -> None:
        try:
            compile_library(Path(self.get_ext_fullpath(ext.name)))
        except CompilerError as error:
            raise CompileError(str(error)) from None


class PlatformWheel(bdist_wheel):
    """Any Python 3 can use it, on this platform."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[
        Extension(
            f"{PACKAGE}.attention",
            sources=[f"plugins/onnxruntime_cpu/{path.name}" for path in FOLDER.glob("*.cpp")],
            optional=True,  # without a compiler, the rest is built
        )
    ],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": PlatformWheel},
)
