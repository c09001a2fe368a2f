"""A TensorRT engine as a side: its outputs only.

CI has no GPU and runs this against a stand-in for the session; see `exporter.runtime
.tensorrt_session`.
"""

from __future__ import annotations

from pathlib import Path

from exporter.artifact.engine_options import EngineOptions
from exporter.artifact.engine_record import EngineRecord
from exporter.artifact.files import record, verify_files
from exporter.artifact.manifest import MANIFEST, read_manifest
from exporter.engine.plan_file import PlanHeader, read_header
from exporter.model.model_shape import ModelShape
from exporter.parity.result import SideInfo
from exporter.parity.runners import Layers, Runner, SessionRunner
from exporter.parity.side import Side
from exporter.runtime.load import artifact_shape

REASON = "a TensorRT engine gives its outputs only"


def engine_side(path: Path) -> Side:
    """The engine at `path`: of an artifact where the manifest beside it names it, else a bare one.

    A bare plan may be anyone's, built from a graph with the inputs and outputs of the other side.
    What limits it is held to, `--precision` says; fp16's are the default.

    Raises:
        InputError: not an engine, or one that is cut short.
    """
    header = read_header(path)
    folder = path.parent
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder)
        engine = next((item for item in manifest.engines if item.file == path.name), None)
        if engine is not None:
            mine = [item for item in manifest.files if item.path == path.name]
            problems = verify_files(folder, mine)
            return Side(
                info=SideInfo(str(path), "engine", manifest.precision, header.target, tuple(mine)),
                shape=artifact_shape(folder, manifest),
                folder=folder,
                longest=manifest.seq.max,
                opens=(lambda shape: _open(path, engine, shape),),
                problems=tuple(f"{item.path} {item.problem}" for item in problems),
                profiles=engine.profiles,
            )
    bare = _bare_record(path, header)
    return Side(
        info=SideInfo(
            str(path),
            "engine",
            "fp16",
            header.target,
            (record(path),),
            ("no manifest names it: held to the limits of fp16 unless --precision says otherwise",),
        ),
        shape=None,
        folder=None,
        longest=None,
        opens=(lambda shape: _open(path, bare, shape),),
    )


def _bare_record(path: Path, header: PlanHeader) -> EngineRecord:
    return EngineRecord(
        target=header.target,
        file=path.name,
        layers="",
        version=header.version,
        profiles=(),
        options=EngineOptions(),
        bytes=header.bytes,
        activation_bytes=None,
        weight_bytes=None,
        attention="unknown",
        kernels={},
        dtypes={},
        seconds=0.0,
        host_peak_bytes=0,
    )


def _open(path: Path, engine: EngineRecord, shape: ModelShape) -> Runner:
    from exporter.runtime.providers.tensorrt_session import TensorRtSession

    return SessionRunner(TensorRtSession(path, engine, shape), Layers(reason=REASON))
