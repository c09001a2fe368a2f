"""An engine: the options of its build, validated where they are made, and what was built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from exporter.errors import InputError
from exporter.model.profile import ShapeProfile

ATTENTIONS = ("auto", "graph", "standard", "plugin")
"""How our operator gets into an engine: the graph's own body, ONNX's `Attention` with the summed
bias, or our plugin; auto is the best that is there."""

_OPTION_NAMES = {"compute_capabilities": "--compute-capability", "workspace_mib": "--workspace"}
"""Options that the command line names in another way."""


@dataclass(frozen=True)
class EngineOptions:
    """How engines are built; None leaves a choice to TensorRT.

    Attributes:
        compute_capabilities: GPUs of a TensorRT-RTX engine, as 89 for SM 8.9; empty is its default.
        workspace_mib: limit of the scratch memory that a kernel may ask for, in MiB.
        optimization_level: TensorRT's, 0 (fastest to build) up to 5.
        timing_cache: file that TensorRT's measurements are kept in between builds; TensorRT only.
        version_compatible: newer versions of the runtime may load the engine; TensorRT only.
        hardware_compatible: other GPUs from Ampere on may run the engine; TensorRT only.
        refittable: the weights can be replaced in the built engine. Needs a GPU to build.
        strip_weights: leave weights that can be refitted out of the file. Needs a GPU to build.
        attention: one of `ATTENTIONS`.
        tf32: products of fp32 values may round their factors to 10 bits.

    Raises:
        InputError: a value out of range; the message names the option.
    """

    compute_capabilities: tuple[int, ...] = ()
    workspace_mib: int | None = None
    optimization_level: int | None = None
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    refittable: bool = False
    strip_weights: bool = False
    attention: str = "auto"
    tf32: bool = False

    def __post_init__(self) -> None:
        for number in self.compute_capabilities:
            if not 50 <= number < 1000:
                raise InputError(
                    f"--compute-capability {number}: give numbers such as 89 for SM 8.9 or 120"
                )
        if len(set(self.compute_capabilities)) != len(self.compute_capabilities):
            raise InputError("--compute-capability: a number is given twice")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise InputError(f"--workspace {self.workspace_mib}: give MiB, at least 1")
        if self.attention not in ATTENTIONS:
            raise InputError(
                f"--attention {self.attention!r}: unknown; choose from {', '.join(ATTENTIONS)}"
            )
        if self.optimization_level not in (None, *range(6)):
            raise InputError(f"--optimization-level {self.optimization_level}: choose from 0 to 5")
        if self.timing_cache is not None:
            object.__setattr__(self, "timing_cache", Path(self.timing_cache))

    def given(self) -> tuple[str, ...]:
        """The options that are not as by default, as the command line names them."""
        names = [item.name for item in fields(self) if getattr(self, item.name) != item.default]
        return tuple(_OPTION_NAMES.get(name, f"--{name.replace('_', '-')}") for name in names)

    @classmethod
    def parse_capabilities(cls, text: str) -> tuple[int, ...]:
        """The numbers in a list such as `"89,120"`.

        Raises:
            InputError: something in it is not a whole number.
        """
        try:
            return tuple(int(part) for part in text.split(","))
        except ValueError:
            raise InputError(f"--compute-capability {text!r}: give numbers, as in 89,120") from None


NOT_JUDGED = "not judged"


@dataclass(frozen=True)
class EngineParity:
    """Whether an engine was within its limits when the artifact was built.

    `status` is "passed", "failed" or "not judged", with the `reason` why nothing ran it; `failures`
    has a line for each thing that fails.
    """

    status: str = NOT_JUDGED
    reason: str = "the build did not run it"
    failures: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.status}: {self.reason}" if self.reason else self.status


@dataclass(frozen=True)
class EngineRecord:
    """A built engine, as the manifest records it.

    `file` is the plan, `layers` the list of its kernels. `activation_bytes`, for a run at the
    largest shapes, and `weight_bytes` are on the device, None where unknown; `seconds` and
    `host_peak_bytes` are of the build. `attention` is how it is computed: "plugin", "fused",
    "expanded" or "unknown"; `body` the form that was built: "plugin", "graph" or "standard".
    `kernels` are counted by kind, `dtypes` by the type that they write. `parity` is the verdict of
    the build's check of it.
    """

    target: str
    file: str
    layers: str
    version: str
    profiles: tuple[ShapeProfile, ...]
    options: EngineOptions
    bytes: int
    activation_bytes: int | None
    weight_bytes: int | None
    attention: str
    kernels: Mapping[str, int]
    dtypes: Mapping[str, int]
    seconds: float
    host_peak_bytes: int
    body: str = "graph"
    parity: EngineParity = EngineParity()
