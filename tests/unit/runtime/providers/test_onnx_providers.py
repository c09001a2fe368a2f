"""Execution providers of ONNX Runtime: their options, and what is said where one is missing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from exporter.errors import InputError, MissingDependencyError
from exporter.model.profile import ShapeProfile
from exporter.runtime.providers.onnx_providers import (
    cache_folder,
    check_active,
    check_available,
    make_providers,
)

INPUTS = ("input_ids", "attention_mask")
PROFILE = ShapeProfile.parse("1,8,32x2,128,512")


def test_cpu_alone(tmp_path: Path) -> None:
    assert make_providers("cpu", INPUTS, PROFILE, tmp_path / "x") == ["CPUExecutionProvider"]
    assert not (tmp_path / "x").exists()


def test_cuda_computes_in_full_fp32(tmp_path: Path) -> None:
    first, last = make_providers("cuda", INPUTS, PROFILE, tmp_path)
    assert first == ("CUDAExecutionProvider", {"device_id": "0", "use_tf32": "0"})
    assert last == "CPUExecutionProvider"


def test_tensorrt_gets_the_profile_and_a_cache(tmp_path: Path) -> None:
    cache = tmp_path / "deep" / "cache"
    (name, options), cuda, cpu = make_providers("ort-tensorrt", INPUTS, PROFILE, cache)
    assert name == "TensorrtExecutionProvider"
    assert options["trt_profile_min_shapes"] == "input_ids:1x2,attention_mask:1x2"
    assert options["trt_profile_opt_shapes"] == "input_ids:8x128,attention_mask:8x128"
    assert options["trt_profile_max_shapes"] == "input_ids:32x512,attention_mask:32x512"
    assert options["trt_engine_cache_path"] == str(cache) and cache.is_dir()
    assert (cuda[0], cpu) == ("CUDAExecutionProvider", "CPUExecutionProvider")


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written"):
        make_providers("ort-tensorrt", INPUTS, PROFILE, tmp_path / "file" / "cache")


def test_the_cache_is_named_by_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder("ab" * 32) == Path("/somewhere/deb-export/ort-tensorrt") / ("ab" * 8)


@pytest.mark.parametrize("name", ["cuda", "ort-tensorrt"])
def test_a_provider_that_is_not_built_in(name: str) -> None:
    check_available("cpu", ["CPUExecutionProvider"])
    with pytest.raises(MissingDependencyError, match=r"deb-export\[gpu\]"):
        check_available(name, ["CPUExecutionProvider"])


def test_a_provider_that_did_not_start() -> None:
    fell_back = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    check_active("cpu", fell_back)
    with pytest.raises(MissingDependencyError, match="would run on CPUExecutionProvider"):
        check_active("cuda", fell_back)
