"""One shard: its rows read, answered and written, whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from calibration.whole_files import write_whole
from exporter.artifact.files import storage_error
from exporter.errors import InputError
from exporter.inputs.encode import TextInput
from exporter.inputs.row_files import rows_of
from exporter.inputs.table_rows import Row
from exporter.predictions.written import KINDS, answer_columns, csv_rows_lines
from exporter.runtime.session import Session
from exporter.scoring.shards import ERROR, Shard, Work, answer_columns_of


@dataclass(frozen=True)
class ShardRecord:
    """A shard that was written: its file, rows, those without an answer, size and SHA-256."""

    index: int
    file: str
    rows: int
    failed: int
    bytes: int
    sha256: str


def score_shard(
    session: Session, shard: Shard, work: Work, tell: Callable[[int], None]
) -> ShardRecord:
    """Write the answers to the rows of a shard; `tell` hears of each row.

    Raises:
        InputError: it cannot be read or written; nothing half-written is left.
    """
    failed = done = 0

    def counted(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        nonlocal failed, done
        for row in rows:
            failed += row[f"{work.prefix}{ERROR}"] is not None
            done += 1
            tell(1)
            yield row
        if done != shard.section.rows:
            raise InputError(f"{shard.section.path}: has changed since its rows were counted")

    digest, size = hashlib.sha256(), 0

    def hashed(pieces: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        nonlocal size
        for piece in pieces:
            digest.update(piece)
            size += len(piece)
            yield piece

    try:
        rows = rows_of(shard.section, work.columns)
        answered = counted(answered_rows(session, rows, work))
        write_whole(work.output / shard.file, hashed(_content(answered, shard, work, session)))
    except OSError as error:
        raise storage_error(error, work.output) or InputError(
            f"{work.output / shard.file}: cannot be written ({error.strerror})"
        ) from error
    return ShardRecord(shard.index, shard.file, done, failed, size, digest.hexdigest())


def answered_rows(session: Session, rows: Iterable[Row], work: Work) -> Iterator[dict[str, Any]]:
    """Each row with the columns of its answer, or with those empty and the reason.

    Raises:
        InputError: a row has a column of the answer's name.
    """
    names = answer_columns_of(work.prefix, KINDS[session.shape.task])
    empty = dict.fromkeys(names)
    waiting: deque[Mapping[str, Any]] = deque()

    def items() -> Iterator[TextInput | InputError]:
        for row in rows:
            waiting.append(row.values)
            yield row.item if not isinstance(row.item, str) else InputError(row.item)

    for answer in session.attempts(items(), work.predictions, entities=work.entities):
        values = waiting.popleft()
        if taken := empty.keys() & values.keys():
            raise InputError(f"a row has a column {min(taken)!r}; choose another --prefix")
        found = {ERROR: str(answer)} if isinstance(answer, InputError) else answer_columns(answer)
        yield {**values, **empty, **{f"{work.prefix}{name}": it for name, it in found.items()}}


def _content(
    rows: Iterator[dict[str, Any]], shard: Shard, work: Work, session: Session
) -> Iterator[bytes | memoryview]:
    if work.form == "parquet":
        from exporter.scoring.parquet_shard import parquet_content

        kind = KINDS[session.shape.task]
        yield parquet_content(rows, shard.section, kind, work.prefix)
        return
    lines = csv_rows_lines(rows) if work.form == "csv" else map(_json_line, rows)
    for line in lines:
        # Lone surrogates, which only a row that was not UTF-8 has, as escapes.
        yield line.encode("utf-8", "backslashreplace")


def _json_line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, default=str) + "\n"
