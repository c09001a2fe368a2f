"""The manifest of an artifact folder; `docs/manifest.md` describes every field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from calibration.json_values import from_json_values, read_json, to_json_values
from exporter.artifact.engine_record import EngineRecord
from exporter.artifact.files import FileRecord
from exporter.errors import InputError
from exporter.model.profile import Range

MANIFEST = "manifest.json"
MODEL_FILE = "model.onnx"
PLAIN_FILE = "model.plain.onnx"
"""The same graph with no function in it, where a build was asked for it."""
SCHEMA = 1
FORMAT = "deb-export-artifact"


@dataclass(frozen=True)
class Source:
    """The checkpoint: its folder when the artifact was built, and the files that were read.

    `demo` says that it is the built-in checkpoint, found wherever the package is. `base` is the
    folder of the model that an adapter was merged into, empty unless it is another: a file that is
    not in the one is in the other. `notes` are what was changed or left out in reading them. `hub`
    is the name of a model of the Hugging Face hub, and `commit` the one that was read, else empty.
    `token_ids` is the fingerprint of what the tokenizer does, empty without one.
    """

    folder: str
    demo: bool
    files: tuple[FileRecord, ...]
    base: str = ""
    notes: tuple[str, ...] = ()
    hub: str = ""
    commit: str = ""
    token_ids: str = ""


@dataclass(frozen=True)
class ParitySummary:
    """Verdict of the build's parity check; `report` names the file with all figures."""

    passed: bool
    report: str
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """What was built, from what, with which result. Mirrors manifest.json field by field.

    `batch` and `seq` (tokens) are what the artifact is meant for; longer texts are truncated.
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
    files: tuple[FileRecord, ...] = ()
    engines: tuple[EngineRecord, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the artifact was within its limits when it was built."""
        return self.parity.passed

    @property
    def half(self) -> str | None:
        """ "fp16" or "bf16" where the graph has values of that type."""
        return half_type(self.graph)

    @property
    def weight_bits(self) -> int | None:
        """Bits that int8 weights use, None where there are none: 7 need no session's option."""
        facts = self.graph.get("quantization")
        if not isinstance(facts, Mapping) or self.precision != "int8":
            return None
        return 7 if facts.get("weight_bits") == 7 else 8

    def to_dict(self) -> dict[str, Any]:
        """The content of manifest.json."""
        return {"format": FORMAT, "schema": SCHEMA, **to_json_values(self)}

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
        values: dict[str, Any] = {}
        for name, kind in get_type_hints(cls).items():
            if name not in data:
                raise InputError(f"{where}: field {name!r} is missing; build the artifact again")
            try:
                values[name] = from_json_values(data[name], kind)
                _check_paths(values[name])
            except (ValueError, InputError):
                raise InputError(
                    f"{where}: field {name!r} is malformed; build the artifact again"
                ) from None
        return cls(**values)


def _check_paths(value: object) -> None:
    """Refuse files outside the folder: a manifest may come from anywhere, and we read them."""
    for item in value if isinstance(value, tuple) else ():
        names = (item.file, item.layers) if isinstance(item, EngineRecord) else ()
        path = Path(item.path) if isinstance(item, FileRecord) else Path()
        if path.is_absolute() or ".." in path.parts or any(Path(n).name != n for n in names):
            raise ValueError(item)


def half_type(graph: Mapping[str, Any]) -> str | None:
    """ "fp16" or "bf16", as the `graph` field of a manifest says; None where it has neither."""
    half = graph.get("half")
    return half.get("dtype") if isinstance(half, Mapping) else None


def is_artifact(folder: Path) -> bool:
    """Whether `folder` has a manifest of ours, of any schema; a broken one may be anybody's."""
    try:
        data = read_json(folder / MANIFEST)
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and data.get("format") == FORMAT


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the artifact in `folder`.

    Raises:
        InputError: no such folder, no manifest in it, or a broken one.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a folder that deb-export build wrote")
    path = folder / MANIFEST
    try:
        data = read_json(path)
    except FileNotFoundError:
        raise InputError(
            f"{folder}: no {MANIFEST}, so not an artifact of deb-export; give one"
        ) from None
    except ValueError as error:
        raise InputError(f"{path}: not readable as JSON ({error}); build it again") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    return Manifest.from_dict(data, str(path))
