"""The files that a check writes: its reports, and what Polygraphy reads.

Each is written whole or not at all; a path is refused before the models run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from exporter.artifact.files import STDOUT, write_output
from exporter.errors import InputError
from exporter.inputs.polygraphy_json import Iteration, inputs_json, outputs_json
from exporter.model.feeds import Ids
from exporter.parity.comparison import Batch
from exporter.parity.result import ParityResult
from exporter.parity.runners import Observation


@dataclass(frozen=True)
class ReportFiles:
    """Where reports go; `-` is stdout, for one of them. JSON has all figures, JUnit XML is for a
    CI viewer, Markdown for a comment, HTML a page for people."""

    json: Path | None = None
    junit: Path | None = None
    markdown: Path | None = None
    html: Path | None = None

    @property
    def stdout(self) -> bool:
        """Whether a report goes to stdout, so that nothing else may."""
        return STDOUT in self._given().values()

    def check(self) -> None:
        """Refuse what cannot be written, before the models run.

        Raises:
            InputError: two reports of one path, or a path that cannot be written.
        """
        seen: dict[Path, str] = {}
        for name, path in self._given().items():
            if path in seen:
                raise InputError(f"--{name} {path}: --{seen[path]} goes there as well")
            seen[path] = name
            if path != STDOUT:
                check_writable(path, f"--{name}")

    def write(self, result: ParityResult) -> None:
        """Make all reports, then write them.

        Raises:
            InputError: one cannot be written; those before it are whole.
        """
        from exporter.parity.report.html import to_html
        from exporter.parity.report.json import to_json
        from exporter.parity.report.junit import to_junit
        from exporter.parity.report.text import to_markdown

        def text_of_json(result: ParityResult) -> str:
            return json.dumps(to_json(result), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

        makers = {"json": text_of_json, "junit": to_junit, "markdown": to_markdown, "html": to_html}
        texts = [(path, makers[name](result)) for name, path in self._given().items()]
        for path, text in texts:
            write_output(path, text)

    def _given(self) -> dict[str, Path]:
        paths = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: path for name, path in paths.items() if path is not None}


def check_writable(path: Path, option: str) -> None:
    """Refuse a file that could not be written.

    Raises:
        InputError: it is a folder, or its folder is missing or closed.
    """
    folder = path.parent
    if path.is_dir():
        raise InputError(f"{option} {path}: is a folder; give a file")
    if not folder.is_dir():
        raise InputError(f"{option} {path}: there is no folder {folder}; make it first")
    if not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise InputError(f"{option} {path}: no permission to write there")


class SavedRun:
    """Keeps what goes into both models and comes out of them, batch by batch, for Polygraphy.

    Padded positions are in it as the models gave them. All of it is held in memory.
    """

    def __init__(self) -> None:
        self._inputs: list[Mapping[str, Ids]] = []
        self._outputs: dict[str, list[Iteration]] = {"reference": [], "candidate": []}

    def __call__(self, batch: Batch, reference: Observation, candidate: Observation) -> None:
        """Keep one batch."""
        self._inputs.append(batch.case.feeds)
        for name, found in (("reference", reference), ("candidate", candidate)):
            self._outputs[name].append(Iteration(found.outputs, found.seconds))

    def write(self, inputs: Path | None, reference: Path | None, candidate: Path | None) -> None:
        """Write the files asked for.

        Raises:
            InputError: one cannot be written.
        """
        if inputs is not None:
            write_output(inputs, json.dumps(inputs_json(self._inputs)))
        for name, path in (("reference", reference), ("candidate", candidate)):
            if path is not None:
                write_output(path, json.dumps(outputs_json(name, self._outputs[name])))
