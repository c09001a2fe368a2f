"""Limits of the user: from a TOML file, and from the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from exporter.errors import InputError
from exporter.parity.limits import (
    HIGHER_IS_BETTER,
    PRECISIONS,
    Limit,
    Limits,
    Metric,
    limits_for,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

COMMAND_LINE = "command line"
_SETTABLE = tuple(metric for metric in Metric if metric is not Metric.NON_FINITE)


def chosen_limits(precision: str, file: Path | None = None, options: Sequence[str] = ()) -> Limits:
    """The limits of a precision with those of a file and of the command line in their place.

    Args:
        precision: whose built-in limits are the start.
        file: TOML, see `docs/parity.md`.
        options: `metric=bound` each; a later one counts.

    Raises:
        InputError: the file is unusable, a metric is unknown, or a bound is none.
    """
    limits = limits_for(precision)
    if file is not None:
        limits = limits.replaced(_from_file(file, precision))
    return limits.replaced(_from_option(text) for text in options)


def _from_file(path: Path, precision: str) -> Iterator[Limit]:
    """The limits of all precisions, then those of this one."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not TOML ({error})") from None
    unknown = sorted(set(data) - {"limits"})
    if unknown or not isinstance(data.get("limits", {}), dict):
        raise InputError(f"{path}: expected the table [limits], found {unknown or 'a value'}")
    table: Mapping[str, Any] = data.get("limits", {})
    # All of it is read, so that a slip in the limits of another precision shows now.
    sections: dict[str, list[Limit]] = {"": []}
    for name, value in table.items():
        if name in PRECISIONS:
            if not isinstance(value, dict):
                raise InputError(f"{path}: limits.{name} is {value!r}; expected a table")
            sections[name] = [
                _from_entry(path, f"{name}.{metric}", metric, entry)
                for metric, entry in value.items()
            ]
        else:
            sections[""].append(_from_entry(path, name, name, value))
    yield from sections[""]
    yield from sections.get(precision, ())


def _from_entry(path: Path, where: str, name: str, entry: object) -> Limit:
    """`metric = bound`, or `metric = {bound = ..., reason = "..."}`."""
    reason: object = f"set in {path.name}"
    if isinstance(entry, dict):
        unknown = sorted(set(entry) - {"bound", "reason"})
        if unknown or "bound" not in entry:
            raise InputError(f"{path}: limits.{where}: give bound, and reason if you like")
        reason = entry.get("reason", reason)
        entry = entry["bound"]
    if not isinstance(reason, str):
        raise InputError(f"{path}: limits.{where}: reason is {reason!r}; expected a text")
    return _limit(f"{path}: limits.{where}", name, entry, reason, path.name)


def _from_option(text: str) -> Limit:
    name, sign, bound = text.partition("=")
    try:
        value = float(bound) if sign else None
    except ValueError:
        value = None
    if value is None:
        raise InputError(f"--limit {text!r}: give METRIC=BOUND, as in max_relative=1e-3")
    return _limit(f"--limit {text}", name.strip(), value, "set on the command line", COMMAND_LINE)


def _limit(where: str, name: str, bound: object, reason: str, origin: str) -> Limit:
    if name == Metric.NON_FINITE.value:
        raise InputError(f"{where}: NaN and infinity always fail; there is nothing to set")
    known = {metric.value: metric for metric in _SETTABLE}
    if name not in known:
        raise InputError(f"{where}: unknown metric {name!r}; known are {', '.join(known)}")
    if isinstance(bound, bool) or not isinstance(bound, (int, float)) or not isfinite(bound):
        raise InputError(f"{where}: bound is {bound!r}; expected a number")
    metric = known[name]
    if bound < 0 or (metric in HIGHER_IS_BETTER and bound > 1):
        highest = "1" if metric in HIGHER_IS_BETTER else "any size"
        raise InputError(f"{where}: bound is {bound:g}; expected 0 to {highest}")
    return Limit(metric, float(bound), reason, origin)
