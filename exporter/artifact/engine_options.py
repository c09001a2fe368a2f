"""Options of an engine build, validated where they are made. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from exporter.errors import InputError

ATTENTIONS = ("auto", "graph", "standard", "plugin")
"""How our operator gets into an engine: the graph's own body, ONNX's `Attention` with the summed
bias, or our plugin; auto is the best that is there."""

OPTIMIZATION_LEVELS = range(6)
"""TensorRT's builder optimization levels; higher is slower to build."""

_OPTION_NAMES = {"compute_capabilities": "--compute-capability", "workspace_mib": "--workspace"}
"""Options that the command line names in another way."""


@dataclass(frozen=True)
class EngineOptions:
    """How engines are built; None leaves a choice to TensorRT.

    Attributes:
        compute_capabilities: GPUs that a TensorRT-RTX engine is for, as 89 for SM 8.9; empty is
            every one that TensorRT-RTX builds for by default.
        workspace_mib: limit of the scratch memory that a kernel may ask for, in MiB.
        optimization_level: 0 (fastest to build) up to 5.
        timing_cache: file that TensorRT's measurements are kept in between builds; TensorRT only.
        version_compatible: newer versions of the runtime may load the engine; TensorRT only.
        hardware_compatible: other GPUs from Ampere on may run the engine; TensorRT only.
        refittable: the weights can be replaced in the built engine. Needs a GPU to build.
        strip_weights: leave weights that can be refitted out of the file. Needs a GPU to build.
        attention: how our operator gets into the engine, one of `ATTENTIONS`.
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
        level = self.optimization_level
        if level is not None and level not in OPTIMIZATION_LEVELS:
            raise InputError(f"--optimization-level {level}: choose from 0 to 5")
        if self.timing_cache is not None:
            object.__setattr__(self, "timing_cache", Path(self.timing_cache))

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

    def given(self) -> tuple[str, ...]:
        """The options that are not as by default, as the command line names them."""
        names = [item.name for item in fields(self) if getattr(self, item.name) != item.default]
        return tuple(_OPTION_NAMES.get(name, f"--{name.replace('_', '-')}") for name in names)

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON takes them."""
        fields = asdict(self)
        fields["timing_cache"] = None if self.timing_cache is None else str(self.timing_cache)
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> EngineOptions:
        """The options that `to_dict` gave."""
        values = dict(fields)
        values["compute_capabilities"] = tuple(values["compute_capabilities"])
        return cls(**values)
