"""What the rounding of a precision alone does to a model, measured like a candidate."""

from __future__ import annotations

from contextlib import closing

from exporter.parity.comparison import Reference, compare
from exporter.parity.runners import TorchRunner
from exporter.parity.side import Side
from exporter.parity.verdict import Noise, noise_of
from exporter.progress import Progress


def measure_noise(reference: Side, found: Reference, precision: str, progress: Progress) -> Noise:
    """The figures of a checkpoint with everything rounded, beside those that it `found`."""
    from exporter.precision.rounded_model import round_model

    progress(f"parity: loading the reference, to round it as {precision}")
    with closing(reference.opens[0](found.shape)) as runner:
        assert isinstance(runner, TorchRunner)
        round_model(runner.model, precision)
        return noise_of(compare(found, runner, progress).cases)
