"""The reference model as a session."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch

from exporter.deberta.checkpoint import Checkpoint, load_model
from exporter.errors import InputError
from exporter.inputs.encode import TextEncoder
from exporter.model.feeds import Ids
from exporter.runtime.batching import Batching
from exporter.runtime.runtime_options import DEFAULTS, RuntimeOptions
from exporter.runtime.session import Floats, Session


class TorchSession(Session):
    """Our PyTorch model in fp32 on the CPU: what every artifact is compared with.

    Raises:
        InputError: a weight cannot be read or holds NaN.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        text: TextEncoder | None = None,
        options: RuntimeOptions = DEFAULTS,
    ) -> None:
        options = options.resolved()
        super().__init__("torch fp32", checkpoint.shape, text, Batching.on_cpu(options))
        self._threads = options.threads
        self.model: torch.nn.Module | None = load_model(checkpoint)

    def _execute(self, feeds: Mapping[str, Ids]) -> dict[str, Floats]:
        if self.model is None:
            raise InputError("the session is closed")
        with torch.inference_mode(), torch_threads(self._threads):
            values = self.model(*(torch.from_numpy(feeds[name]) for name in self.input_names))
        arrays = (np.ascontiguousarray(value.numpy()) for value in values)
        return dict(zip(self.output_names, arrays, strict=True))

    def close(self) -> None:
        """Free the weights."""
        self.model = None


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Let PyTorch compute with so many threads, and afterwards as before; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
