"""What the reference gave at the build, kept in the artifact: an engine is judged by it later, on a
machine that has neither the checkpoint nor PyTorch.

One safetensors file: inputs and outputs of some batches of the build's check, in fp32, and no text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from exporter.artifact.files import record
from exporter.errors import InputError
from exporter.inputs.cases import DataSet, ParityCase
from exporter.metrics.figures import Floats
from exporter.model.feeds import Ids
from exporter.model.model_shape import ModelShape
from exporter.parity.comparison import Batch
from exporter.parity.result import SideInfo
from exporter.parity.runners import Layers, Observation
from exporter.parity.side import Side

RECORD_FILE = "reference.safetensors"
LIMIT_BYTES = 4 << 20
"""Size of the file, about: batches that would exceed it are left out."""


class Recorder:
    """An observer of a comparison that keeps what the reference gave, within `LIMIT_BYTES`."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray[Any, Any]] = {}
        self._cases: list[dict[str, Any]] = []
        self._bytes = 0

    def __call__(self, batch: Batch, expected: Observation, actual: Observation) -> None:
        """Keep a batch, if there is room."""
        case, number = batch.case, len(self._cases)
        arrays: dict[str, np.ndarray[Any, Any]] = {}
        arrays |= {f"input {name}": values for name, values in case.feeds.items()}
        arrays |= {f"output {name}": values for name, values in expected.outputs.items()}
        arrays |= {} if case.asked is None else {"asked": case.asked}
        size = sum(values.nbytes for values in arrays.values())
        if self._cases and self._bytes + size > LIMIT_BYTES:
            return
        self._bytes += size
        for name, values in arrays.items():
            self._arrays[f"{number} {name}"] = np.ascontiguousarray(values)
        # Of the texts it counts only which are the same.
        numbers = {text: f"text {index}" for index, text in enumerate(dict.fromkeys(case.firsts))}
        firsts = [numbers[text] if text else "" for text in case.firsts]
        known = {"name": case.name, "labels": case.labels, "firsts": firsts}
        self._cases.append({"data_set": batch.data_set, **known})

    def write(self, path: Path) -> None:
        """Write the file."""
        path.write_bytes(save(self._arrays, metadata={"cases": json.dumps(self._cases)}))


class RecordedRunner:
    """The outputs of a record, for the inputs that they were computed from."""

    name = "recorded at the build"
    layers = Layers(reason="the record has outputs only")

    def __init__(self, outputs: Mapping[str, Mapping[str, Floats]]) -> None:
        self._outputs = outputs

    def observe(self, feeds: Mapping[str, Ids], layers: bool) -> Observation:
        """The outputs that belong to these inputs."""
        return Observation(self._outputs[_key(feeds)], (), 0.0)

    def close(self) -> None:
        """Let go of the outputs."""
        self._outputs = {}


def read_record(path: Path, shape: ModelShape) -> tuple[Side, tuple[DataSet, ...]]:
    """The reference that a record stands for, and the inputs that it knows.

    Raises:
        InputError: the file is missing, or not such a record of the model `shape`.
    """
    cases: dict[str, list[ParityCase]] = {}
    outputs: dict[str, Mapping[str, Floats]] = {}
    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            known = json.loads((file.metadata() or {})["cases"])
        for number, item in enumerate(known):
            feeds = {name: arrays[f"{number} input {name}"] for name in shape.inputs}
            case = ParityCase(
                item["name"],
                feeds,
                (),
                None if item["labels"] is None else tuple(map(int, item["labels"])),
                tuple(map(str, item["firsts"])),
                arrays.get(f"{number} asked"),
            )
            wanted = shape.output_shape(case.shape)
            found = {name: arrays[f"{number} output {name}"] for name in shape.outputs}
            if any(values.shape != wanted for values in found.values()):
                raise ValueError(f"outputs of {item['name']!r} are not of shape {wanted}")
            outputs[_key(feeds)] = found
            cases.setdefault(item["data_set"], []).append(case)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not outputs of the reference ({error})") from None
    info = SideInfo(path.name, "saved outputs", "fp32", RecordedRunner.name, (record(path),))
    side = Side(info, shape, None, None, (lambda shape: RecordedRunner(outputs),))
    return side, tuple(DataSet(name, tuple(found)) for name, found in cases.items())


def _key(feeds: Mapping[str, Ids]) -> str:
    return repr([(name, feeds[name].shape, feeds[name].tobytes()) for name in sorted(feeds)])
