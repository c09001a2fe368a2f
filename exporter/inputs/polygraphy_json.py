"""Inputs and outputs in the JSON of Polygraphy, so that its `run` reads ours and we read its own.

Inputs are a list with a mapping of names to arrays for each iteration (`--load-inputs`,
`--save-inputs`); outputs are a `RunResults`, a list of runners with the outputs of each iteration
(`--load-outputs`, `--save-outputs`). An array is a `.npy` in base64. The tests read what is written
here with Polygraphy itself, and the reverse; it need not be installed to use this file.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.json_values import read_json
from exporter.errors import InputError

_TYPE = "polygraphy_class"
Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Iteration:
    """The outputs of one run: arrays by name, and its seconds where they are known."""

    outputs: Mapping[str, Array]
    seconds: float | None


def inputs_json(batches: Sequence[Mapping[str, Array]]) -> list[dict[str, Any]]:
    """The content of a file for `--load-inputs`."""
    return [{name: _encoded(array) for name, array in batch.items()} for batch in batches]


def outputs_json(runner: str, iterations: Sequence[Iteration]) -> dict[str, Any]:
    """The content of a file for `--load-outputs`: what one runner gave."""
    results = []
    for item in iterations:
        outputs = {k: {"values": _encoded(v), _TYPE: "LazyArray"} for k, v in item.outputs.items()}
        result = {"outputs": outputs, "runtime": item.seconds, "runner_name": runner}
        results.append({**result, _TYPE: "IterationResult"})
    return {"lst": [[runner, results]], _TYPE: "RunResults"}


def read_inputs(path: Path) -> list[dict[str, Array]]:
    """The inputs of each iteration; InputError for a file that is missing or of another format."""
    data = _read(path)
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        raise InputError(f"{path}: not inputs as polygraphy run --save-inputs writes them")
    return [{name: _decoded(path, name, value) for name, value in item.items()} for item in data]


def read_outputs(path: Path) -> dict[str, list[Iteration]]:
    """The outputs of each iteration by name of the runner; InputError as `read_inputs`."""
    data = _read(path)
    if not isinstance(data, dict) or data.get(_TYPE) != "RunResults":
        raise InputError(f"{path}: not outputs as polygraphy run --save-outputs writes them")
    try:
        return {
            str(name): [Iteration(_outputs(path, it["outputs"]), it.get("runtime")) for it in items]
            for name, items in data["lst"]
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(f"{path}: malformed results of polygraphy run") from None


def _outputs(path: Path, outputs: Mapping[str, Any]) -> dict[str, Array]:
    found = {}
    for name, value in outputs.items():
        # Polygraphy wraps an array once more where it may be swapped to the disk.
        lazy = isinstance(value, dict) and value.get(_TYPE) == "LazyArray"
        found[name] = _decoded(path, name, value["values"] if lazy else value)
    return found


def _encoded(array: Array) -> dict[str, str]:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return {"array": base64.b64encode(stream.getvalue()).decode("ascii"), _TYPE: "ndarray"}


def _decoded(path: Path, name: str, value: object) -> Array:
    if not isinstance(value, dict) or value.get(_TYPE) != "ndarray":
        raise InputError(f"{path}: {name} is not an array of NumPy; save it from NumPy arrays")
    try:
        stream = io.BytesIO(base64.b64decode(value["array"], validate=True))
        array: Array = np.load(stream, allow_pickle=False)
    except (KeyError, TypeError, ValueError, EOFError, binascii.Error):
        raise InputError(f"{path}: the array {name} is damaged") from None
    return array


def _read(path: Path) -> object:
    try:
        return read_json(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from None
