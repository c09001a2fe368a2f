"""The two builders, TensorRT and TensorRT-RTX: where they differ, and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import takewhile
from types import ModuleType

from exporter.artifact.engine_record import EngineOptions
from exporter.environment import gpus, package_version
from exporter.errors import InputError, MissingDependencyError
from plugins.disentangled_attention import tensorrt_plugin


@dataclass(frozen=True)
class Backend:
    """One builder: `target` is its name on the command line, `title` its name in messages.

    `distributions` are the packages that provide the module, the usual one first; `tag` is the
    first four bytes of its plans, `plan_file` their name in an artifact, and `oldest` the oldest
    version that is supported.
    """

    target: str
    title: str
    module: str
    distributions: tuple[str, ...]
    tag: bytes
    plan_file: str
    oldest: tuple[int, int]
    builds_without_gpu: bool
    install: str

    def version(self) -> str | None:
        """The installed version, None when it is not installed."""
        found = (package_version(name) for name in self.distributions)
        return next((number for number in found if number is not None), None)

    def problem(self) -> str | None:
        """Why nothing can be built with it here, in a few words; None when it can be."""
        number = self.version()
        if number is None or find_spec(self.module) is None:
            return f"{self.title} is not installed: {self.install}"
        if release(number) < self.oldest:
            oldest = ".".join(map(str, self.oldest))
            return f"{self.title} {number} is too old, {oldest} is needed: {self.install}"
        if find_spec("polygraphy") is None:
            return f"Polygraphy is not installed: {self.install}"
        if not self.builds_without_gpu and not gpus():
            return f"{self.title} builds on a GPU, and nvidia-smi shows none"
        return None

    def plugin_problem(self) -> str | None:
        """Why the attention plugin cannot be used, in a few words; None when it can be."""
        if self is TENSORRT_RTX:
            return "TensorRT-RTX takes no plugins from Python"
        return tensorrt_plugin.problem()

    def bodies(self, options: EngineOptions, *, standard_pays: bool) -> tuple[str, ...]:
        """The forms of the attention to build with, the next where one cannot be built.

        `standard_pays` says that the standard operator is better than the graph's own body.
        """
        if options.attention != "auto":
            return (options.attention,)
        plugin = () if self.plugin_problem() else ("plugin",)
        return (*plugin, *(("standard",) if standard_pays else ()), "graph")

    def check(self, options: EngineOptions) -> None:
        """Refuse what cannot be built, before any work is done.

        Raises:
            MissingDependencyError: software or the GPU is missing.
            InputError: an option that the builder does not have.
        """
        problem = self.problem()
        if problem is not None:
            raise MissingDependencyError(f"--target {self.target}: {problem}")
        reason = self.plugin_problem() if options.attention == "plugin" else None
        if reason is not None:
            raise MissingDependencyError(f"--attention plugin: {reason}; or use graph or standard")
        if self is TENSORRT:
            if options.compute_capabilities:
                raise InputError(
                    "--compute-capability: TensorRT builds for the GPU it runs on; only "
                    "tensorrt-rtx takes it"
                )
            return
        for name in options.given():
            if name in ("--timing-cache", "--version-compatible", "--hardware-compatible"):
                raise InputError(f"{name}: TensorRT-RTX has no such option; only tensorrt takes it")
            if name in ("--refittable", "--strip-weights") and not gpus():
                raise MissingDependencyError(
                    f"{name}: TensorRT-RTX builds such engines on a GPU only, and nvidia-smi shows "
                    "none"
                )

    def load(self) -> ModuleType:
        """The module.

        Raises:
            MissingDependencyError: it is not installed or does not load.
        """
        try:
            return import_module(self.module)
        except ImportError as error:
            raise MissingDependencyError(
                f"{self.title} is not installed or does not load ({error}): {self.install}"
            ) from None


TENSORRT = Backend(
    target="tensorrt",
    title="TensorRT",
    module="tensorrt",
    distributions=("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    tag=b"ftrt",
    plan_file="model.plan",
    oldest=(10, 13),
    builds_without_gpu=False,
    install='pip install "deb-export[tensorrt]"',
)
TENSORRT_RTX = Backend(
    target="tensorrt-rtx",
    title="TensorRT-RTX",
    module="tensorrt_rtx",
    distributions=("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
    tag=b"vtrt",
    plan_file="model.rtx.plan",
    oldest=(1, 5),
    builds_without_gpu=True,
    install='pip install "deb-export[rtx]"',
)
BACKENDS = {backend.target: backend for backend in (TENSORRT, TENSORRT_RTX)}


def release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: `(10, 13, 0)` of `10.13.0.post1`."""
    return tuple(int(part) for part in takewhile(str.isdecimal, version.split(".")))
