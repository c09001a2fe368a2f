"""A shard as Parquet: the columns of its rows with the types they have, and those of the answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import is_dataclass
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from exporter.inputs.parquet_rows import parquet_table
from exporter.inputs.table_rows import Section
from exporter.predictions.predicted import Prediction
from exporter.predictions.written import answer_names
from exporter.scoring.shards import ERROR


def parquet_content(
    rows: Iterable[dict[str, Any]], section: Section, kind: type[Prediction], prefix: str
) -> memoryview:
    """The file of a shard whose rows are those of `section`, each with its answer's columns.

    These are the fields of `kind` and the reason, each behind `prefix`.
    """
    import pyarrow
    from pyarrow.parquet import write_table

    types = {"best": str, "score": float, **get_type_hints(kind), ERROR: str}
    names = {f"{prefix}{name}": _type(types[name]) for name in (*answer_names(kind), ERROR)}
    if section.form == "parquet":
        answers = [{name: row[name] for name in names} for row in rows]
        table = parquet_table(section)
    else:  # CSV, whose cells are texts
        whole = list(rows)
        answers = [{name: row.pop(name) for name in names} for row in whole]
        header = list(dict.fromkeys(name for row in whole for name in row))
        columns = {name: [_utf8(row[name]) for row in whole] for name in header}
        table = pyarrow.table(columns, pyarrow.schema([(n, pyarrow.string()) for n in header]))
    for name, kept in names.items():
        values = pyarrow.array([row[name] for row in answers], kept)
        table = table.append_column(name, values)
    sink = pyarrow.BufferOutputStream()
    write_table(table, sink)
    return memoryview(sink.getvalue())


def _utf8(text: str | None) -> str | None:
    return text and text.encode("utf-8", "backslashreplace").decode()


def _type(hint: Any) -> Any:
    """The Arrow type of a field of a prediction."""
    import pyarrow

    if is_dataclass(hint):
        members = get_type_hints(hint).items()
        return pyarrow.struct([(name, _type(inner)) for name, inner in members])
    if get_origin(hint) is tuple:
        return pyarrow.list_(_type(get_args(hint)[0]))
    if get_origin(hint) is UnionType:
        return _type(get_args(hint)[0])
    plain = {str: "string", float: "float64", int: "int64", bool: "bool_"}
    return getattr(pyarrow, plain[hint])()
