"""What to build: one frozen configuration, checked where it is made; it has all defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar, cast, get_args, overload

from exporter.artifact.engine_record import EngineOptions
from exporter.artifact.files import usable_path
from exporter.errors import InputError
from exporter.model.profile import Range, ShapeProfile
from exporter.model.task import LastLayer, Task
from exporter.precision.quantized.quantization_options import QuantizationOptions

QUANTIZED_PRECISIONS = ("int8", "fp8")

PRECISIONS = ("fp32", "fp16", "bf16", *QUANTIZED_PRECISIONS)

TARGETS = ("onnx", "tensorrt", "tensorrt-rtx")
"""What can be built: the graph, which is always written, and engines from it."""

Given = TypeVar("Given", contravariant=True)
Kept = TypeVar("Kept", covariant=True)


class Kind(Generic[Given, Kept]):
    """A field of a dataclass that is given as one type and kept as another; None is its default.

    Type checkers know such a descriptor: `BuildConfig(model="folder").model` is a Path to them.
    """

    def __init__(self, keep: Callable[[Given], Kept]) -> None:
        self._keep = keep

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> None: ...

    @overload
    def __get__(self, instance: object, owner: type) -> Kept | None: ...

    def __get__(self, instance: object | None, owner: type) -> Any:
        return None if instance is None else instance.__dict__[self._name]

    def __set__(self, instance: object, value: Given | None) -> None:
        instance.__dict__[self._name] = None if value is None else self._keep(value)


def _task(value: Task | str) -> Task:
    """The task named `value`."""
    try:
        return Task(value)
    except ValueError:
        known = ", ".join(task.value for task in Task)
        raise InputError(f"--task {value!r}: unknown; choose from {known}") from None


def _last_layer(value: str) -> LastLayer:
    """What of the last layer `value` names."""
    if value not in get_args(LastLayer):
        known = " and ".join(get_args(LastLayer))
        raise InputError(f"--last-layer {value!r}: unknown; there are {known}")
    return cast("LastLayer", value)


@dataclass(frozen=True)
class BuildConfig:
    """Options of one build. All are checked here, before any work starts.

    Attributes:
        model: checkpoint folder in the Hugging Face format, or the name of a model on its hub;
            None is the built-in demo.
        output: folder to write; None is `artifacts/<model>-<precision>` below the current folder.
        precision: storage and arithmetic of the graph, one of `PRECISIONS`.
        targets: what to build, each one of `TARGETS`; None is what this machine can build: the
            graph, and engines whose builder is installed and has what it needs.
        task: head to export; None takes the checkpoint's.
        base: folder, or name on the hub, of the model that a LoRA adapter in `model` changes; None
            is the one that the adapter names, or lies beside.
        strict: refuse a checkpoint with tensors that the task does not use.
        batch: batch sizes that the artifact is meant for.
        seq: lengths in tokens that the artifact is meant for; None ends at the model's maximum.
        data: text file for the parity check, one text a line; None takes the demo's texts.
        calibration_data: texts that show the values in the model, which decide what fp16 can hold
            and the scales of int8; text or JSONL, see docs/calibration.md. None takes the demo's.
        external_data: weights in `model.onnx.data`; None puts them there above 1 GiB.
        last_layer: what is computed of the last layer, "full", as for None, or the "first"
            token alone.
        plain: write the graph a second time with no function in it, for tools that read none.
        force: replace an existing artifact folder.
        revision: of a model on the hub: branch, tag or commit; None is its default branch.
        quantization: how an int8 or fp8 graph is quantized.
        engine: how engines are built.
        profiles: shapes that engines are built for; none is one profile of `batch` and `seq`.

    Raises:
        InputError: an option's value is not one that this version can build.
    """

    model: Kind[Path | str, Path] = Kind(usable_path)
    output: Kind[Path | str, Path] = Kind(usable_path)
    precision: str = "fp32"
    targets: Kind[Iterable[str], tuple[str, ...]] = Kind(tuple)
    task: Kind[Task | str, Task] = Kind(_task)
    base: Kind[Path | str, Path] = Kind(usable_path)
    strict: bool = False
    batch: Range = field(default=Range(1, 8, 32))
    seq: Range | None = None
    data: Kind[Path | str, Path] = Kind(usable_path)
    calibration_data: Kind[Path | str, Path] = Kind(usable_path)
    external_data: bool | None = None
    plain: bool = False
    last_layer: Kind[LastLayer | str, LastLayer] = Kind(_last_layer)
    force: bool = False
    revision: str | None = None
    quantization: QuantizationOptions = field(default=QuantizationOptions())
    engine: EngineOptions = field(default=EngineOptions())
    profiles: tuple[ShapeProfile, ...] = ()

    def __post_init__(self) -> None:
        chosen: list[tuple[str, str, tuple[str, ...]]]
        chosen = [("--precision", self.precision, PRECISIONS)]
        chosen += [("--target", target, TARGETS) for target in self.targets or ()]
        for option, value, choices in chosen:
            if value not in choices:
                raise InputError(f"{option} {value!r}: unknown; choose from {', '.join(choices)}")
        if self.revision is not None and self.model is None:
            raise InputError(f"--revision {self.revision}: give the model's name as MODEL")
        if self.base is not None and self.model is None:
            raise InputError(f"--base {self.base}: give the folder of its adapter as MODEL")
        if self.calibration_data is not None and self.precision == "fp32":
            raise InputError("--calibration-data: fp32 has no use for it; give another --precision")
        if self.quantization != QuantizationOptions() and not self.quantized:
            raise InputError(
                f"--precision {self.precision}: options of quantization are for "
                f"{' and '.join(QUANTIZED_PRECISIONS)}; leave them out"
            )
        if self.targets is not None and not self.targets:
            raise InputError("--target: give at least one target, as in --target onnx")
        options = (*self.engine.given(), *(("--profile",) if self.profiles else ()))
        if options and self.targets is not None and set(self.targets) == {"onnx"}:
            raise InputError(f"{options[0]}: --target onnx builds no engine; leave one of them out")

    @property
    def quantized(self) -> bool:
        """Whether linear layers are quantized."""
        return self.precision in QUANTIZED_PRECISIONS

    @property
    def chosen_quantization(self) -> QuantizationOptions:
        """The options of quantization, with the bits of weights that these targets want.

        Weights of 7 bits are right wherever ONNX Runtime or OpenVINO may run the graph.
        """
        engines_alone = self.targets is not None and "onnx" not in self.targets
        if self.precision != "int8" or self.quantization.weight_bits or not engines_alone:
            return self.quantization
        return replace(self.quantization, weight_bits=8)

    @property
    def output_folder(self) -> Path:
        """Folder to write, absolute."""
        if self.output is not None:
            return self.output.absolute()
        name = "demo" if self.model is None else self.model.resolve().name or "model"
        return Path.cwd() / "artifacts" / f"{name}-{self.precision}"
