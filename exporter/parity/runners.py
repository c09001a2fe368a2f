"""What a parity check runs: outputs, hidden states of the layers, and the time of it.

`B` batch, `C` choices, `S` sequence, `E` hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from exporter.errors import InputError, RunError
from exporter.graph.hidden_states import layer_names
from exporter.inputs.polygraphy_json import Iteration, read_outputs
from exporter.metrics.figures import Floats
from exporter.model.feeds import Ids
from exporter.model.model_shape import ModelShape
from exporter.runtime.session import Session


@dataclass(frozen=True, eq=False)
class Observation:
    """What a model gave for one batch.

    Attributes:
        outputs: by name, as the model gives them.
        layers: hidden states `(B, S, E)`, or `(B * C, S, E)`; empty where they were not asked for.
        seconds: time of the run.
    """

    outputs: Mapping[str, Floats]
    layers: Sequence[Floats]
    seconds: float


@dataclass(frozen=True)
class Layers:
    """The hidden states that a runner can give: their names, or why there are none."""

    names: tuple[str, ...] = ()
    reason: str = ""


class Runner(Protocol):
    """A loaded model on one side of a comparison."""

    @property
    def name(self) -> str:
        """The runtime, for reports."""

    @property
    def layers(self) -> Layers:
        """The hidden states it can give."""

    def observe(self, feeds: Mapping[str, Ids], layers: bool) -> Observation:
        """Run one batch; with `layers`, give the hidden states as well."""

    def close(self) -> None:
        """Free the model."""


class SessionRunner:
    """A session, such as an engine's: its outputs only.

    Args:
        session: the model.
        layers: why it has no hidden states.
    """

    def __init__(self, session: Session, layers: Layers) -> None:
        self.name, self.layers = session.name, layers
        self._session = session

    def observe(self, feeds: Mapping[str, Ids], layers: bool) -> Observation:
        """Run one batch."""
        start = perf_counter()
        outputs = self._session.run(**feeds)
        return Observation(outputs, (), perf_counter() - start)

    def close(self) -> None:
        """Free the model."""
        self._session.close()


class EngineRunner(SessionRunner):
    """An engine, whose kernels may fail on the GPU.

    Args:
        path: the plan.
        session: the engine.
        layers: why it has no hidden states.
    """

    def __init__(self, path: Path, session: Session, layers: Layers) -> None:
        super().__init__(session, layers)
        self._path = path

    def observe(self, feeds: Mapping[str, Ids], layers: bool) -> Observation:
        """Run one batch."""
        try:
            return super().observe(feeds, layers)
        except RuntimeError as error:  # PyTorch's, from the copies around the engine
            if "CUDA error" not in str(error):
                raise
            raise RunError(self._path, str(error).splitlines()[0]) from error


class TorchRunner(SessionRunner):
    """The reference model, its hidden states taken by hooks.

    Raises:
        InputError: a weight cannot be read or holds NaN.
    """

    def __init__(self, folder: Path, shape: ModelShape) -> None:
        from exporter.deberta.checkpoint import open_checkpoint
        from exporter.runtime.providers.torch_session import TorchSession

        session = TorchSession(open_checkpoint(folder, shape.task))
        super().__init__(session, Layers(layer_names(shape.num_hidden_layers)))
        self.model: Any = session.model

    def observe(self, feeds: Mapping[str, Ids], layers: bool) -> Observation:
        """Run one batch; with `layers`, give the hidden states as well."""
        taken: dict[int, Any] = {}
        hooks = self._hooks(taken) if layers else []
        try:
            found = super().observe(feeds, layers)
        finally:
            for hook in hooks:
                hook.remove()
        return replace(found, layers=[taken[index].numpy() for index in sorted(taken)])

    def _hooks(self, taken: dict[int, Any]) -> list[Any]:
        """Hooks that put the hidden states into `taken` by their index."""
        from exporter.deberta.heads import encoder_of

        encoder = encoder_of(self.model)

        def keep(index: int) -> Any:
            return lambda module, inputs, output: taken.__setitem__(index, output)

        hooks = [encoder.register_forward_pre_hook(lambda _, inputs: taken.update({0: inputs[0]}))]
        for index, layer in enumerate(encoder.layer):
            hooks.append(layer.register_forward_hook(keep(index + 1)))
        if encoder.conv is not None:
            hooks.append(encoder.conv.register_forward_hook(keep(1)))
        return hooks

    def close(self) -> None:
        """Free the weights."""
        self.model = None
        super().close()


class SavedRunner:
    """Outputs that Polygraphy saved, in the order of their iterations.

    Raises:
        InputError: the file is missing, not of that format, or has several runners or none.
    """

    def __init__(self, path: Path, shape: ModelShape) -> None:
        runs = read_outputs(path)
        if len(runs) != 1:
            raise InputError(f"{path}: outputs of {sorted(runs)}; expected those of one runner")
        ((self.name, self._iterations),) = runs.items()
        self._path, self._shape = path, shape
        self._next = 0
        self.layers = Layers(reason="the file has outputs only")

    def observe(self, feeds: Mapping[str, Ids], layers: bool) -> Observation:
        """The outputs saved for the next batch."""
        if self._next >= len(self._iterations):
            raise InputError(
                f"{self._path}: outputs of {len(self._iterations)} iterations, but there are more "
                "batches; give the inputs that they were computed from with --data"
            )
        saved: Iteration = self._iterations[self._next]
        self._next += 1
        outputs = {}
        for name in self._shape.outputs:
            if name not in saved.outputs:
                raise InputError(f"{self._path}: no output {name}; it has {sorted(saved.outputs)}")
            outputs[name] = np.asarray(saved.outputs[name], np.float32)
        wanted = self._shape.output_shape(feeds["input_ids"].shape)
        found = next(iter(outputs.values())).shape
        if found != wanted:
            raise InputError(
                f"{self._path}: iteration {self._next - 1} has outputs of shape {found}, and the "
                f"inputs ask for {wanted}: they are not from these inputs; give those with --data"
            )
        return Observation(outputs, (), saved.seconds or 0.0)

    def close(self) -> None:
        """Let go of the outputs."""
        self._iterations = []
