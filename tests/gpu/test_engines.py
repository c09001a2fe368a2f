"""Engines on a GPU: outputs against the graph in ONNX Runtime, CUDA graphs, buffers, refusals.

Run with `pytest -m gpu tests/gpu`. Each test is skipped, with the reason, where something is
missing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import exporter
from exporter.artifact.engine_record import EngineOptions
from exporter.engine.backend import BACKENDS
from exporter.engine.cuda import find_gpu
from exporter.errors import InputError, MissingDependencyError
from exporter.model.profile import Range
from exporter.pipeline.config import BuildConfig

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.checkpoints import write_checkpoint

pytestmark = pytest.mark.gpu
Made = Callable[[str], Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Builds an artifact with an engine of a target, or skips."""
    try:
        gpu = find_gpu()
    except MissingDependencyError as error:
        pytest.skip(str(error))
    if not torch.cuda.is_available():
        pytest.skip("PyTorch cannot use the GPU")
    folder = tmp_path_factory.mktemp("gpu")
    texts = folder / "texts.txt"
    texts.write_text("a text\nanother, longer text\n")
    artifacts: dict[str, Path] = {}

    def make(target: str) -> Path:
        problem = BACKENDS[target].problem()
        if problem is not None:
            pytest.skip(problem)
        if target not in artifacts:
            capabilities = (gpu.capability,) if target == "tensorrt-rtx" else ()
            config = BuildConfig(
                model=write_checkpoint(folder / f"model-{target}", "token-classification"),
                output=folder / target,
                data=texts,
                targets=("onnx", target),
                batch=Range(1, 4, 8),
                seq=Range(1, 32, 77),
                engine=EngineOptions(capabilities),
            )
            exporter.build(config)
            artifacts[target] = config.output_folder
        return artifacts[target]

    return make


def feeds(batch: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    mask = np.ones((batch, length), np.int64)
    mask[-1, (length + 1) // 2 :] = 0
    return {"input_ids": random.integers(1, 1000, (batch, length)), "attention_mask": mask}


def assert_close(found: np.ndarray, expected: np.ndarray, mask: np.ndarray) -> None:
    valid = mask.astype(bool)
    assert np.isfinite(found).all()
    scale = np.abs(expected[valid]).max()
    assert np.abs(found[valid] - expected[valid]).max() <= 1e-4 * scale


@pytest.mark.parametrize("target", BACKENDS)
def test_an_engine_agrees_with_the_graph(made: Made, target: str) -> None:
    folder = made(target)
    with exporter.load(folder, "cpu") as reference, exporter.load(folder, target) as session:
        # Every shape comes several times, between others, so that CUDA graphs are replayed.
        for seed, (batch, length) in enumerate([(1, 1), (8, 77), (3, 17), (1, 1), (8, 77)] * 3):
            inputs = feeds(batch, length, seed)
            expected, found = reference.run(**inputs), session.run(**inputs)
            for name, value in expected.items():
                assert_close(found[name], value, inputs["attention_mask"])
        with pytest.raises(InputError, match="the engine takes"):
            session.run(**feeds(9, 77))


@pytest.mark.parametrize("target", BACKENDS)
def test_buffers_on_the_gpu_are_used_where_they_are(made: Made, target: str) -> None:
    folder = made(target)
    inputs = feeds(2, 33)
    with exporter.load(folder, "cpu") as reference, exporter.load(folder, target) as session:
        expected = reference.run(**inputs)
        on_gpu = {name: torch.from_numpy(value).cuda() for name, value in inputs.items()}
        found = session.run_buffers(**on_gpu)
        for name, value in expected.items():
            assert found[name].is_cuda
            assert_close(found[name].cpu().numpy(), value, inputs["attention_mask"])


@pytest.mark.parametrize("provider", ["cuda", "ort-tensorrt"])
def test_providers_of_onnx_runtime(made: Made, provider: str) -> None:
    folder = made("tensorrt-rtx")
    inputs = feeds(2, 33)
    with exporter.load(folder, "cpu") as reference:
        expected = reference.run(**inputs)
    try:
        session = exporter.load(folder, provider)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    found = session.run(**inputs)
    session.close()
    for name, value in expected.items():
        assert_close(found[name], value, inputs["attention_mask"])
