"""The manifest of an artifact folder, and the only writer of such a folder.

`docs/manifest.md` describes every field of manifest.json. A folder is written beside its place
under a hidden name and renamed when whole, so what carries the final name is always complete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from exporter.artifact.engine_record import EngineRecord
from exporter.artifact.files import FileRecord
from exporter.errors import InputError
from exporter.model.profile import Range

MANIFEST = "manifest.json"
MODEL_FILE = "model.onnx"
SCHEMA = 1
FORMAT = "deb-export-artifact"


@dataclass(frozen=True)
class Source:
    """The checkpoint: its folder when the artifact was built, and the files that were read.

    `demo` says that it is the built-in checkpoint, found wherever the package is.
    """

    folder: str
    demo: bool
    files: tuple[FileRecord, ...]


@dataclass(frozen=True)
class ParitySummary:
    """Verdict of the build's parity check; `report` names the file with all figures."""

    passed: bool
    report: str
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """What was built, from what, with which result. Mirrors manifest.json field by field.

    Attributes:
        tool: name and version of the producer.
        created: UTC time, ISO 8601.
        source: the checkpoint.
        precision: of the graph.
        targets: what was built: the graph, and engines by their target.
        task: head, the value of `Task`.
        inputs: input names of the graph, in order.
        outputs: output names of the graph, in order.
        batch: batch sizes that the artifact is meant for.
        seq: lengths in tokens that it is meant for; longer texts are truncated to `seq.max`.
        labels: label of each class, by index.
        model: summary of the configuration.
        graph: what the export did (opset, node counts, bytes).
        environment: versions of Python, the packages and the system.
        parity: verdict of the build's parity check.
        limits: the limits that it was held to.
        seconds: duration of each step.
        files: every file of the folder but manifest.json.
        engines: the engines, in the order they were built.
        skipped: why the default left a target out, by its name.
    """

    tool: str
    created: str
    source: Source
    precision: str
    targets: tuple[str, ...]
    task: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    batch: Range
    seq: Range
    labels: Mapping[int, str]
    model: Mapping[str, Any]
    graph: Mapping[str, Any]
    environment: Mapping[str, str]
    parity: ParitySummary
    limits: tuple[Mapping[str, Any], ...]
    seconds: Mapping[str, float]
    files: tuple[FileRecord, ...] = field(default=())
    engines: tuple[EngineRecord, ...] = field(default=())
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the artifact was within its limits when it was built."""
        return self.parity.passed

    @property
    def half(self) -> str | None:
        """ "fp16" or "bf16" where the graph has values of that type."""
        return half_type(self.graph)

    def to_dict(self) -> dict[str, Any]:
        """The content of manifest.json."""
        fields = asdict(self)
        fields["labels"] = {str(index): label for index, label in self.labels.items()}
        fields["engines"] = [engine.to_dict() for engine in self.engines]
        return {"format": FORMAT, "schema": SCHEMA, **fields}

    @classmethod
    def from_dict(cls, data: object, where: str = MANIFEST) -> Manifest:
        """The manifest that `data` describes; unknown fields are ignored.

        Raises:
            InputError: another format or schema, or a field that is missing or malformed; the
                message names `where` and the field.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise InputError(f"{where}: not a manifest of deb-export; build the artifact again")
        if data.get("schema") != SCHEMA:
            raise InputError(
                f"{where}: schema {data.get('schema')!r}, this version reads {SCHEMA}; "
                "build the artifact again, or use the version that made it"
            )
        name = ""
        try:
            values: dict[str, Any] = {}
            for name, read in _READERS.items():
                values[name] = read(data[name])
        except (KeyError, TypeError, ValueError, AttributeError, InputError) as error:
            reason = "is missing" if isinstance(error, KeyError) and error.args == (name,) else None
            raise InputError(
                f"{where}: field {name!r} {reason or 'is malformed'}; build the artifact again"
            ) from None
        return cls(**values)


def half_type(graph: Mapping[str, Any]) -> str | None:
    """ "fp16" or "bf16", as the `graph` field of a manifest says; None where it has neither."""
    half = graph.get("half")
    return half.get("dtype") if isinstance(half, Mapping) else None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError
    return tuple(_text(item) for item in value)


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError
    return dict(value)


def _range(value: object) -> Range:
    return Range(**_mapping(value))


def _files(value: object) -> tuple[FileRecord, ...]:
    if not isinstance(value, list):
        raise TypeError
    return tuple(
        FileRecord(_text(item["path"]), int(item["bytes"]), _text(item["sha256"])) for item in value
    )


def _artifact_files(value: object) -> tuple[FileRecord, ...]:
    records = _files(value)
    # A manifest may come from anywhere: it must not make us read outside its folder.
    if any(Path(record.path).is_absolute() or ".." in record.path for record in records):
        raise ValueError
    return records


def _source(value: object) -> Source:
    fields = _mapping(value)
    return Source(_text(fields["folder"]), bool(fields["demo"]), _files(fields["files"]))


def _parity(value: object) -> ParitySummary:
    fields = _mapping(value)
    return ParitySummary(
        fields["passed"] is True, _text(fields["report"]), _texts(fields["failures"])
    )


def _engines(value: object) -> tuple[EngineRecord, ...]:
    if not isinstance(value, list):
        raise TypeError
    engines = tuple(EngineRecord.from_dict(_mapping(item)) for item in value)
    # As with the files: both lie in the artifact's folder itself.
    if any(Path(name).name != name for item in engines for name in (item.file, item.layers)):
        raise ValueError
    return engines


_READERS: Mapping[str, Any] = {
    "tool": _text,
    "created": _text,
    "source": _source,
    "precision": _text,
    "targets": _texts,
    "task": _text,
    "inputs": _texts,
    "outputs": _texts,
    "batch": _range,
    "seq": _range,
    "labels": lambda value: {int(index): _text(text) for index, text in value.items()},
    "model": _mapping,
    "graph": _mapping,
    "environment": _mapping,
    "parity": _parity,
    "limits": lambda value: tuple(_mapping(item) for item in value),
    "seconds": _mapping,
    "files": _artifact_files,
    "engines": _engines,
    "skipped": lambda value: {name: _text(text) for name, text in _mapping(value).items()},
}


def is_artifact(folder: Path) -> bool:
    """Whether `folder` looks like an artifact: it has a manifest."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the artifact in `folder`.

    Raises:
        InputError: no such folder, no manifest in it, or a broken one.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a folder that deb-export build wrote")
    path = folder / MANIFEST
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{folder}: no {MANIFEST}, so not an artifact of deb-export; give one"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}); build it again") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    return Manifest.from_dict(data, str(path))
