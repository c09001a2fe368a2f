"""What is wrong with options of quantization is said before a checkpoint is read or hashed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import exporter
from exporter.errors import InputError
from exporter.precision.quantized.quantization_options import QuantizationOptions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "a"}, "layers 'a': give numbers and ranges"),
        ({"layers": "5-2"}, "layers '5-2': give numbers and ranges"),
        ({"include": ("(",)}, r"'\(' is not a regular expression"),
        ({"exclude": ("dense", "[")}, r"'\[' is not a regular expression"),
    ],
)
def test_options_are_checked_where_they_are_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        QuantizationOptions(**options)


def test_layers_are_checked_before_anything_is_hashed(
    make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hashed(path: Path) -> None:
        raise AssertionError(f"{path} was hashed")

    monkeypatch.setattr("exporter.pipeline.source.record", hashed)
    config = exporter.BuildConfig(
        model=make_checkpoint(),
        output=tmp_path / "out",
        precision="int8",
        targets=("onnx",),
        quantization=QuantizationOptions(layers="0,7"),
    )
    with pytest.raises(InputError, match="no layer 7; the model has layers 0 to 1"):
        exporter.build(config)
