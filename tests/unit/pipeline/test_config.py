"""The configuration of a build: defaults, and what is refused."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from exporter import BuildConfig
from exporter.errors import InputError
from exporter.model.task import Task


def test_defaults() -> None:
    config = BuildConfig()
    assert (config.precision, config.targets, config.task) == ("fp32", None, None)
    assert config.output_folder == Path.cwd() / "artifacts" / "demo-fp32"


def test_the_output_is_named_after_the_model(tmp_path: Path) -> None:
    assert BuildConfig(model=tmp_path / "big").output_folder.name == "big-fp32"
    assert BuildConfig(model=Path()).output_folder.name == f"{Path.cwd().name}-fp32"
    assert BuildConfig(output=tmp_path / "x").output_folder == tmp_path / "x"


def test_texts_become_paths_and_tasks() -> None:
    config = BuildConfig(model="a", output="b", data="c", task="masked-lm")  # type: ignore[arg-type]
    assert (config.model, config.output, config.data) == (Path("a"), Path("b"), Path("c"))
    assert config.task is Task.MASKED_LM


def test_it_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        BuildConfig().precision = "fp16"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp7"}, "--precision 'fp7': unknown; choose from fp32"),
        ({"targets": ("tensorflow",)}, "--target 'tensorflow': unknown; choose from onnx, "),
        ({"targets": ("onnx", "tpu")}, "--target 'tpu': unknown"),
        ({"targets": ()}, "at least one target"),
        ({"task": "translation"}, "--task 'translation': unknown; choose from base, masked-lm"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        BuildConfig(**options)
    assert message in str(caught.value)
