"""The folder of a run: what it is about, which shards are there, and that they are whole."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from calibration.json_values import from_json_values, read_json, to_json_values
from calibration.whole_files import write_whole
from exporter.artifact.files import FileRecord, storage_error, verify_files
from exporter.artifact.left_behind import locked
from exporter.errors import InputError
from exporter.scoring.score_shard import ShardRecord

RUN_FILE, LOG_FILE = "score.json", "shards.jsonl"
FORMAT, SCHEMA = "deb-export-score", 1


class ScoreFolder:
    """The output of a run, as a context manager that keeps other runs out.

    `score.json` says what is scored, and when all is done with how much; `shards.jsonl` has a line
    for each shard that was written. Only a shard with a line whose size and SHA-256 are those of
    its file counts, whatever has killed the run before.

    Raises:
        InputError: the folder holds something else, a run that is not this one or that still goes
            on, or cannot be written.
    """

    def __init__(self, output: Path, run: Mapping[str, Any], *, resume: bool) -> None:
        self._output, self._run = output, {"format": FORMAT, "schema": SCHEMA, **run}
        self._resume = resume
        self._made = self._begun = False
        self._lock: int | None = None
        self._records: dict[int, ShardRecord] = {}

    def __enter__(self) -> ScoreFolder:
        try:
            self._made = not self._output.exists()
            self._output.mkdir(parents=True, exist_ok=True)
            self._lock = locked(self._output)
            if self._lock is None and os.name == "posix":
                raise InputError(f"{self._output}: another run writes there; wait, or end it")
            if self._resume and (self._output / RUN_FILE).exists():
                self._compare()
            elif any(self._output.iterdir()):
                raise InputError(
                    f"{self._output}: is not empty; choose another --output"
                    + ("" if self._resume else ", or go on with a run there: --resume")
                )
            else:
                self._write_run({})
                self._begun = True
            self._remove_unfinished()
        except OSError as error:
            self._close()
            raise storage_error(error, self._output) or InputError(
                f"{self._output}: cannot be written ({error.strerror})"
            ) from error
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove_unfinished()
        if self._begun and not self._records:  # there is nothing to go on with
            with suppress(OSError):
                (self._output / RUN_FILE).unlink()
                if self._made:
                    self._output.rmdir()
        self._close()

    def written(self) -> dict[int, ShardRecord]:
        """The shards that are there and whole; a warning names those that were damaged."""
        for record in _logged(self._output / LOG_FILE):
            self._records[record.index] = record
        by_file = {record.file: record for record in self._records.values()}
        files = (FileRecord(it.file, it.bytes, it.sha256) for it in by_file.values())
        for problem in verify_files(self._output, files):
            warnings.warn(
                f"{self._output / problem.path}: {problem.problem}; scored again", stacklevel=2
            )
            del self._records[by_file[problem.path].index]
        # Anew, since its last line may have been cut.
        write_whole(self._output / LOG_FILE, "".join(map(_line, self._records.values())))
        return dict(self._records)

    def add(self, record: ShardRecord) -> None:
        """Take down a shard that was written."""
        self._records[record.index] = record
        try:
            with (self._output / LOG_FILE).open("a", encoding="utf-8") as log:
                log.write(_line(record))
                log.flush()
                os.fsync(log.fileno())
        except OSError as error:
            raise storage_error(error, self._output) or error from error

    def finish(self) -> dict[str, int]:
        """Write what there is in all: shards, rows, and rows without an answer."""
        records = self._records.values()
        rows, failed = (sum(getattr(it, name) for it in records) for name in ("rows", "failed"))
        totals = {"shards": len(records), "rows": rows, "failed": failed}
        self._begun = False
        try:
            self._write_run({"finished": totals})
        except OSError as error:
            raise storage_error(error, self._output) or error from error
        return totals

    def _write_run(self, more: Mapping[str, Any]) -> None:
        text = json.dumps({**self._run, **more}, indent=2, ensure_ascii=False)
        write_whole(self._output / RUN_FILE, text + "\n")

    def _compare(self) -> None:
        """Refuse to go on with a run of something else."""
        path = self._output / RUN_FILE
        try:
            found = read_json(path)
        except ValueError as error:
            raise InputError(f"{path}: not the record of a run ({error})") from None
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise InputError(f"{path}: not the record of a run of deb-export score")
        ours = {**self._run, "tool": found.get("tool")}
        changed = [key for key, value in ours.items() if found.get(key) != value]
        if changed:
            raise InputError(
                f"{self._output}: its run had another {', '.join(changed)}; give the same, or "
                "choose another --output"
            )

    def _remove_unfinished(self) -> None:
        """Remove what a shard is written to before it has its name: nobody writes now."""
        for path in self._output.glob(".part-*"):
            with suppress(OSError):
                path.unlink()

    def _close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)


def _line(record: ShardRecord) -> str:
    return json.dumps(to_json_values(record)) + "\n"


def _logged(path: Path) -> Iterable[ShardRecord]:
    """The lines of the log; the last one may have been cut."""
    with suppress(FileNotFoundError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):
                yield from_json_values(json.loads(line), ShardRecord)
