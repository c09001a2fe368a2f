"""Whatever computes on the CPU obeys one rule for its threads: environment, then machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from calibration.sites import find_sites
from exporter.deberta.checkpoint import open_checkpoint
from exporter.graph.export import export_onnx
from exporter.parity.runners import TorchRunner
from exporter.precision.half.to_half import convert_file
from exporter.precision.quantized.calibrate import calibrate
from exporter.precision.quantized.calibration_text import TextBatches
from exporter.precision.quantized.quantization_options import QuantizationOptions
from exporter.runtime import runtime_options as options
from exporter.runtime.providers.torch_session import TorchSession

pytestmark = pytest.mark.usefixtures("shared_traces")

Feeds = dict[str, NDArray[np.int64]]


def calibrated(folder: Path, graph: Path, feeds: Feeds) -> None:
    text = TextBatches((feeds,), (), data_hash="", warnings=())
    calibrate(graph, find_sites(ir.load(graph)), text, QuantizationOptions(), model_hash="")


def halved(folder: Path, graph: Path, feeds: Feeds) -> None:
    convert_file(graph, graph.with_name("half.onnx"), "fp16", [feeds], precision="fp16")


def session(folder: Path, graph: Path, feeds: Feeds) -> None:
    with TorchSession(open_checkpoint(folder)) as opened:
        opened.run(**feeds)


def reference(folder: Path, graph: Path, feeds: Feeds) -> None:
    TorchRunner(folder, open_checkpoint(folder).shape).observe(feeds, layers=True)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Threads of every ONNX Runtime session that is opened, and of every linear layer of torch."""
    found: list[int] = []
    opened, linear = onnxruntime.InferenceSession, torch.nn.functional.linear

    def open_session(graph: Any, settings: Any, **rest: Any) -> Any:
        found.append(settings.intra_op_num_threads)
        return opened(graph, settings, **rest)

    def multiply(*arguments: Any) -> torch.Tensor:
        found.append(torch.get_num_threads())
        return linear(*arguments)

    monkeypatch.setattr(onnxruntime, "InferenceSession", open_session)
    monkeypatch.setattr(torch.nn.functional, "linear", multiply)
    return found


@pytest.mark.parametrize("by", ["environment", "machine"])
@pytest.mark.parametrize("compute", [calibrated, halved, session, reference])
def test_threads(
    compute: Callable[[Path, Path, Feeds], None],
    by: str,
    make_checkpoint: Callable[..., Path],
    tmp_path: Path,
    threads: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if by == "environment":
        monkeypatch.setenv("DEB_EXPORT_THREADS", "3")
    else:  # as under the CPU quota of a container
        for name in ("DEB_EXPORT_THREADS", "OMP_NUM_THREADS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(options, "default_threads", lambda: 3)
    folder, graph = make_checkpoint(num_hidden_layers=1), tmp_path / "model.onnx"
    export_onnx(open_checkpoint(folder), graph, external_data=True)
    ids = np.random.default_rng(0).integers(5, 1616, (2, 9))
    before = torch.get_num_threads()
    threads.clear()
    compute(folder, graph, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    assert set(threads) == {3}
    assert torch.get_num_threads() == before
