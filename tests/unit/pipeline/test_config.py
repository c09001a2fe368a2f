"""The configuration of a build: defaults, and what is refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from calibration.formats import NumberFormat
from exporter import BuildConfig
from exporter.artifact.engine_record import EngineOptions
from exporter.errors import InputError
from exporter.model.profile import ShapeProfile
from exporter.model.task import Task
from exporter.precision.quantized.quantization_options import QuantizationOptions


def test_defaults() -> None:
    config = BuildConfig()
    assert (config.precision, config.targets, config.task) == ("fp32", None, None)
    assert config.output_folder == Path.cwd() / "artifacts" / "demo-fp32"


def test_the_output_is_named_after_the_model(tmp_path: Path) -> None:
    assert BuildConfig(model=tmp_path / "big").output_folder.name == "big-fp32"
    assert BuildConfig(model=Path()).output_folder.name == f"{Path.cwd().name}-fp32"
    assert BuildConfig(output=tmp_path / "x").output_folder == tmp_path / "x"


def test_texts_become_paths_and_tasks() -> None:
    config = BuildConfig(model="a", output="b", data="c", task="masked-lm")
    assert (config.model, config.output, config.data) == (Path("a"), Path("b"), Path("c"))
    assert config.task is Task.MASKED_LM


def test_it_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        BuildConfig().precision = "fp16"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("precision", "targets", "given", "chosen"),
    [
        ("int8", None, None, None),
        ("int8", ("onnx", "tensorrt"), None, None),
        ("int8", ("tensorrt", "tensorrt-rtx"), None, 8),
        ("int8", ("tensorrt",), 7, 7),
        ("int8", None, 8, 8),
        ("fp8", ("tensorrt",), None, None),
    ],
)
def test_weights_have_the_bits_that_all_targets_compute_right(
    precision: str, targets: tuple[str, ...] | None, given: int | None, chosen: int | None
) -> None:
    options = QuantizationOptions(weight_bits=given)
    found = BuildConfig(precision=precision, targets=targets, quantization=options)
    assert found.chosen_quantization.weight_bits == chosen
    seven = chosen is None and precision == "int8"
    assert found.chosen_quantization.weights(NumberFormat(precision)) is (
        NumberFormat.INT7 if seven or chosen == 7 else NumberFormat(precision)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp7"}, "--precision 'fp7': unknown; choose from fp32"),
        ({"targets": ("tensorflow",)}, "--target 'tensorflow': unknown; choose from onnx, "),
        ({"targets": ("onnx", "tpu")}, "--target 'tpu': unknown"),
        ({"targets": ()}, "at least one target"),
        (
            {"engine": EngineOptions(timing_cache="c"), "targets": ["onnx"]},
            "--timing-cache: ",
        ),
        (
            {"profiles": (ShapeProfile.parse("1x8"),), "targets": ("onnx",)},
            "--profile: --target onnx",
        ),
        ({"task": "translation"}, "--task 'translation': unknown; choose from base, masked-lm"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        BuildConfig(**options)
    assert message in str(caught.value)


def test_every_engine_option_has_the_name_of_the_command_line() -> None:
    from exporter.commands.build import build

    known = {name for parameter in build.params for name in parameter.opts}
    given = EngineOptions(
        compute_capabilities=(89,),
        workspace_mib=1,
        optimization_level=0,
        timing_cache=Path("c"),
        version_compatible=True,
        hardware_compatible=True,
        refittable=True,
        strip_weights=True,
        attention="graph",
        tf32=True,
    ).given()
    assert len(given) == len(fields(EngineOptions))
    assert set(given) <= known


SNIPPET = """
from pathlib import Path

{readme}
config = exporter.BuildConfig(
    model="folder", output=Path("out"), data="texts", targets=["onnx"], task="base"
)
reveal_type(config.model)
reveal_type(config.targets)
reveal_type(config.task)
exporter.BuildConfig(model=3)
"""


def test_the_shipped_types_take_texts_for_paths_and_say_paths(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    readme = (root / "README.md").read_text(encoding="utf-8")
    example = re.search(r"In Python:\n\n```python\n(.*?)```", readme, re.DOTALL)
    assert example is not None
    path = tmp_path / "user.py"
    path.write_text(SNIPPET.format(readme=example[1]), encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary"]
    command += ["--follow-imports=silent", "--cache-dir", str(tmp_path / "cache"), str(path)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(root)},
        check=False,
    )
    found = [line.partition("user.py:")[2].partition(": ")[2] for line in done.stdout.splitlines()]
    assert found == [
        'note: Revealed type is "pathlib.Path | None"',
        'note: Revealed type is "tuple[str, ...] | None"',
        'note: Revealed type is "exporter.model.task.Task | None"',
        'error: Argument "model" to "BuildConfig" has incompatible type "int"; '
        'expected "Path | str | None"  [arg-type]',
    ]
