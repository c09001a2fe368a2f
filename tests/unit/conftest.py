"""Checkpoints and artifacts that several tests use, each made once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import write_checkpoint
from support.shared_traces import SharedTraces

from exporter.graph import export
from exporter.graph.trace import trace
from exporter.pipeline.build_artifact import build
from exporter.pipeline.config import BuildConfig

MakeCheckpoint = Callable[..., Path]

TEXTS = (
    "The film was long, and I would not see it again.",
    "A splendid little camera: small, light and quick.",
    "No.",
    "It works, mostly; the battery is the weak point, and the manual does not help at all.",
    "Why does it stop after two minutes?\tBecause it gets too hot. The fan is broken.",
    "Größe und Gewicht sind in Ordnung 👍",
    "rt @somebody: best. day. ever!!!",
    "I have owned three of these, and each one broke within a year of being bought.",
    "not bad",
)


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps what the tests cache out of the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def trace_cache() -> SharedTraces:
    return SharedTraces(trace)


@pytest.fixture(scope="module")
def shared_traces(trace_cache: SharedTraces) -> Iterator[None]:
    """Exports of one configuration share its trace, which is most of the time of a small one.

    For modules that need many graphs and ask for it by name; graphs, builds and the command line
    have tests that trace.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "trace", trace_cache.trace)
        yield


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> MakeCheckpoint:
    """Makes a checkpoint folder; a call with the same arguments gives the same folder."""
    made: dict[str, Path] = {}

    def make(task: str = "sequence-classification", **changes: Any) -> Path:
        key = json.dumps([task, changes], sort_keys=True)
        if key not in made:
            folder = tmp_path_factory.mktemp("checkpoint") / task
            made[key] = write_checkpoint(folder, task, **changes)
        return made[key]

    return make


@pytest.fixture(scope="session")
def texts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few texts, one a line; one of them is a pair."""
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def make_artifact(
    make_checkpoint: MakeCheckpoint, texts_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Builds an artifact for a task, once. Tests must not change it: copy it first."""
    made: dict[str, Path] = {}

    def make(task: str = "sequence-classification") -> Path:
        if task not in made:
            made[task] = tmp_path_factory.mktemp("artifact") / task
            config = BuildConfig(
                model=make_checkpoint(task),
                output=made[task],
                data=texts_file,
                targets=("onnx",),
            )
            assert build(config).passed
        return made[task]

    return make
