"""Whether a graph does what its plan says: stage by stage, each with the graph's own inputs.

The reference model with the plan's arithmetic runs on a batch, and the end of each stage is
compared with the graph's value there, which then goes on in its place. So an error is seen where it
is made and nowhere else, and what is left between honest stages is the order of fp32 sums, and
values that it moves over a rounding boundary: few, each by one step. `W` is the width of a stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from exporter.artifact.onnx_file import open_onnx
from exporter.errors import InputError
from exporter.graph.hidden_states import HiddenStates, with_outputs
from exporter.graph.stages import CONVOLUTION, EMBEDDINGS, LAYER_STAGES, find_stages, stage_name
from exporter.inputs.cases import ParityCase
from exporter.model.model_shape import ModelShape
from exporter.precision.precision_plan import PrecisionPlan
from exporter.progress import Progress
from exporter.runtime.providers.onnx_session import open_graph, run_graph
from exporter.runtime.providers.rounded_session import widened_content
from exporter.runtime.runtime_options import BODY

if TYPE_CHECKING:
    import torch
    from torch import nn

    from exporter.deberta.checkpoint import Checkpoint

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

STAGE_BYTES = 1 << 29
"""Values of all stages that are kept between the graph's run and the model's: 512 MiB."""

OFF = 2e-5
"""An element is off beyond this, relative to the root mean square of its stage: what the order of
fp32 sums moves stays below."""

EXACT_RMS = 1e-5
"""Limit on the error of a stage in which nothing is rounded, relative to its root mean square; the
largest of an honest graph was 6e-7."""

ROUNDED_RMS = {"fp16": 1e-4, "bf16": 5e-4, "int8": 5e-4, "fp8": 5e-4}
"""The same where a value may fall to the other side of a rounding boundary. Honest graphs had
1.4e-5 in fp16, 7.1e-5 in bf16, and in int8 and fp8, whose inputs are the graph's own, no more than
where nothing is rounded; a runtime that divides by a scale in another way may move a few."""

OFF_SHARE = 0.05
"""Limit on the share of elements that are off in such a stage; honest graphs had 2e-3."""

CHANNEL_SHARE = 0.3
"""Limit on the share of tokens in which one channel is off: a fault in one column is off in all.
Honest graphs had 1.1e-2."""

LEAST_TOKENS = 32
"""Tokens from which shares of them mean something."""


@dataclass(frozen=True)
class StageFigures:
    """How far a graph's stage is from its plan, over all tokens compared.

    Attributes:
        rms: root mean square of the difference, relative to that of the stage.
        off: share of elements that differ by more than `OFF`.
        channel: the largest share of tokens in which one channel does.
        step: what is rounded within: "fp16", "bf16", "int8", "fp8", or "" for nothing.
        missing: why it could not be compared; "" where it was.
        summed: whether what is rounded within is summed to each value, as in a head: one flip among
            many moves them all, so their shares mean nothing.
    """

    name: str
    tokens: int = 0
    rms: float = 0.0
    off: float = 0.0
    channel: float = 0.0
    step: str = ""
    missing: str = ""
    summed: bool = False

    @property
    def limit(self) -> float:
        """The largest `rms` permitted."""
        return ROUNDED_RMS[self.step] if self.step else EXACT_RMS

    @property
    def failure(self) -> str:
        """What is wrong with it, in a line; "" where nothing is."""
        if self.missing:
            return f"{self.name}: {self.missing}"
        if not self.rms <= self.limit:
            return f"{self.name}: differs from its plan by {self.rms:.2g}, permitted {self.limit:g}"
        if not self.step or self.summed or self.tokens < LEAST_TOKENS:
            return ""
        if self.off > OFF_SHARE:
            return f"{self.name}: {self.off:.0%} of its values are not those of its plan"
        if self.channel > CHANNEL_SHARE:
            return f"{self.name}: a channel is not that of its plan in {self.channel:.0%} of tokens"
        return ""


class _Sums:
    """Of a stage's differences over batches."""

    def __init__(self) -> None:
        self.tokens = self.width = 0
        self.squares = self.errors = 0.0
        self.off: Any = 0

    def add(self, expected: Floats, actual: Floats) -> None:
        """Add tokens, `(tokens, W)` each."""
        with np.errstate(invalid="ignore"):  # a plan may overflow as its graph does: both are wrong
            error = np.abs(actual - expected)
        error[~np.isfinite(error)] = np.inf
        squares = float(np.square(expected, dtype=np.float64).sum())
        self.tokens += len(expected)
        self.width = expected.shape[1]
        self.squares += squares
        self.errors += float(np.square(error, dtype=np.float64).sum())
        self.off = self.off + (error > OFF * np.sqrt(squares / max(1, expected.size))).sum(axis=0)

    def figures(self, name: str, step: str) -> StageFigures:
        rms = np.sqrt(self.errors / self.squares) if self.squares else float(self.errors > 0)
        tokens = max(1, self.tokens)  # none where the first token of each text is padding
        off = float(np.sum(self.off)) / (tokens * max(1, self.width))
        channel = float(np.max(self.off)) / tokens
        return StageFigures(name, self.tokens, float(rms), off, channel, step)


def stage_names(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The stages that a graph of a checkpoint has, in order."""
    names = [EMBEDDINGS]
    for layer in range(checkpoint.config.num_hidden_layers):
        names += [stage_name(layer, part) for part in LAYER_STAGES]
        if layer == 0 and checkpoint.config.conv_kernel_size > 0:
            names.append(CONVOLUTION)
    return tuple(names)


@dataclass(frozen=True, eq=False)
class StageValues:
    """What a graph gave for one batch: `(tokens, W)` by stage, of valid tokens alone, and outputs
    by name, as the graph gives them, with what of them is no padding. `masks` are bool `(B, S)`,
    the tokens of each stage: of the last layer it may be the first of each text."""

    case: ParityCase
    stages: Mapping[str, Floats]
    masks: Mapping[str, Bools]
    outputs: Mapping[str, Floats]
    counted: NDArray[np.bool_]


def choose_cases(checkpoint: Checkpoint, cases: Sequence[ParityCase]) -> tuple[ParityCase, ...]:
    """The first batches whose stages are within `STAGE_BYTES` together, at least one."""
    config = checkpoint.config
    packed = config.num_attention_heads * config.head_size
    width = 4 * packed + 2 * config.hidden_size + config.intermediate_size
    token = 4 * config.num_hidden_layers * width
    chosen: list[ParityCase] = []
    used = 0
    for case in cases:
        size = token * int(case.mask.sum())
        if not chosen or used + size <= STAGE_BYTES:
            chosen.append(case)
            used += size
    return tuple(chosen)


def judge_graph(
    checkpoint: Checkpoint,
    path: Path,
    plan: PrecisionPlan,
    cases: Sequence[ParityCase],
    progress: Progress,
) -> tuple[StageFigures, ...]:
    """Run a graph, as `deb-export build` wrote it from a checkpoint, then the model of its plan,
    and compare every stage on the first of the batches.

    Raises:
        InputError: ONNX Runtime cannot load or run the graph, or the plan is another model's.
    """
    from exporter.precision.emulate import emulated_model

    progress("parity: values of the stages")
    chosen = choose_cases(checkpoint, cases)
    values = run_stages(path, checkpoint.shape, chosen, rounded=plan.half is not None)
    progress("parity: loading the model of the plan")
    try:
        model = emulated_model(checkpoint, plan)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    return judge_stages(model, plan, stage_names(checkpoint), values, progress)


def run_stages(
    path: Path, shape: ModelShape, cases: Sequence[ParityCase], *, rounded: bool
) -> tuple[StageValues, ...]:
    """The values between the stages of a graph; with half's rounding where it has half values.

    Raises:
        InputError: ONNX Runtime cannot load or run it.
    """
    content = widened_content(path) if rounded else path.read_bytes()
    model = open_onnx(path)
    stages = find_stages(model)
    values = tuple(stage.value for stage in stages)
    own = [item.name for item in model.graph.output]
    hidden = HiddenStates(values=values, types=(TensorProto.FLOAT,) * len(values))
    content = with_outputs(content, hidden, own)
    session, _ = open_graph(path, BODY.resolved(), content=content)
    inputs = {item.name for item in session.get_inputs()}
    found = []
    for case in cases:
        feeds = {name: array for name, array in case.feeds.items() if name in inputs}
        outputs = run_graph(path, session, [*values, *shape.outputs], feeds)
        arrays = [np.asarray(array, np.float32) for array in outputs]
        mask = case.mask.reshape(-1, case.shape[-1])
        taken, masks = {}, {}
        for stage, array in zip(stages, arrays, strict=False):
            taken[stage.name] = array[mask[:, : array.shape[1]]]
            masks[stage.name] = mask & (np.arange(mask.shape[1]) < array.shape[1])
        given = dict(zip(shape.outputs, arrays[len(stages) :], strict=True))
        found.append(StageValues(case, taken, masks, given, shape.counted(case.feeds)))
    return tuple(found)


def judge_stages(
    model: nn.Module,
    plan: PrecisionPlan,
    names: Sequence[str],
    values: Sequence[StageValues],
    progress: Progress,
) -> tuple[StageFigures, ...]:
    """Compare what a graph gave, for at least one batch, with the model of its plan, which is from
    `exporter.precision.emulate.emulated_model`; `names` are the stages that it has to have."""
    import torch

    sums = {name: _Sums() for name in names}
    heads: dict[str, _Sums] = {}
    missing = [name for name in names if any(name not in item.stages for item in values)]
    with torch.inference_mode():
        for number, item in enumerate(values):
            progress(f"parity: stages against their plan, batch {number + 1} of {len(values)}")
            _judge_batch(model, item, sums, heads)
    steps = _steps(names, plan)
    found = [
        StageFigures(name, missing="the graph does not have it under its names")
        if name in missing
        else sums[name].figures(name, steps[name])
        for name in names
    ]
    heads_found = (total.figures(name, _head_step(plan)) for name, total in heads.items())
    found += [replace(figures, summed=True) for figures in heads_found]
    return tuple(found)


def _judge_batch(
    model: nn.Module, item: StageValues, sums: Mapping[str, _Sums], heads: dict[str, _Sums]
) -> None:
    """Run the model on a batch; each stage's value is compared, then replaced by the graph's."""
    import torch

    feeds = item.case.feeds

    def hook(name: str) -> Any:
        def compare(module: object, inputs: object, output: torch.Tensor) -> torch.Tensor:
            del module, inputs
            actual = item.stages.get(name)
            if actual is None:
                return output
            mask = torch.from_numpy(item.masks[name])
            sums[name].add(output[mask].numpy(), actual)
            replaced = torch.zeros_like(output)
            replaced[mask] = torch.from_numpy(actual)
            return replaced

        return compare

    hooks = [module.register_forward_hook(hook(name)) for name, module in _modules(model).items()]
    try:
        outputs = model(*(torch.from_numpy(array) for array in feeds.values()))
    finally:
        for entry in hooks:
            entry.remove()
    for (name, actual), expected in zip(item.outputs.items(), outputs, strict=True):
        wanted, given = expected.numpy(), actual
        if wanted.shape[: item.counted.ndim] == item.counted.shape:
            wanted, given = wanted[item.counted], given[item.counted]
        width = wanted.shape[-1] if wanted.ndim > 1 else 1
        total = heads.setdefault(f"output {name}", _Sums())
        total.add(wanted.reshape(-1, width), given.reshape(-1, width))


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    """The module of the model whose output ends each stage."""
    from exporter.deberta.heads import encoder_of

    encoder = encoder_of(model)
    prefix = next(name for name, module in model.named_modules() if module is encoder)
    found = {EMBEDDINGS: model.get_submodule(f"{prefix.removesuffix('encoder')}embeddings")}
    paths = ("attention.self.qkv", "attention.self", "attention", "intermediate", "")
    for index, layer in enumerate(encoder.layer):
        for part, path in zip(LAYER_STAGES, paths, strict=True):
            found[stage_name(index, part)] = layer.get_submodule(path)
    if encoder.conv is not None:
        found[CONVOLUTION] = encoder.conv
    return found


def _steps(names: Sequence[str], plan: PrecisionPlan) -> dict[str, str]:
    """What is rounded within each stage: values that another order of sums may move by a step."""
    number = "" if plan.number is None else plan.number.value
    steps = {}
    for name in names:
        half = "" if plan.half is None else plan.half.dtype
        within_half = half and name != EMBEDDINGS
        quantized = number if name not in (EMBEDDINGS, CONVOLUTION) else ""
        if name.endswith(" context"):
            quantized = ""
        steps[name] = quantized or (half if within_half else "")
    return steps


def _head_step(plan: PrecisionPlan) -> str:
    return "" if plan.half is None else plan.half.dtype
