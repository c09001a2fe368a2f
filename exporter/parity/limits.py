"""The limits of a parity check: those of `limits.toml`, of a user's file, of the command line.

`docs/parity.md` explains the metrics; `exporter.metrics` computes them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache
from importlib.resources import files
from math import isfinite
from pathlib import Path
from typing import Any

from exporter.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
"""From the tightest limits to the widest."""

BUILT_IN = "built in"
COMMAND_LINE = "command line"


class Level(str, Enum):
    """What a check is about."""

    OUTPUT = "output"
    LAYER = "layer"
    DECISION = "decision"
    TASK = "task"


class Metric(str, Enum):
    """What a limit is set on; the value is its name in reports."""

    NON_FINITE = "non_finite"
    MAX_RELATIVE = "max_relative"
    RMS_RELATIVE = "rms_relative"
    SPREAD_RELATIVE = "spread_relative"
    MIN_COSINE = "min_cosine"
    CORRELATION = "correlation"
    AGREEMENT = "agreement"
    TIED_FLIPS = "tied_flips"
    MEAN_KL = "mean_kl"
    CONFIDENCE_SHIFT = "confidence_shift"
    ACCURACY_DROP = "accuracy_drop"
    ECE_SHIFT = "ece_shift"
    SPEARMAN = "spearman"
    ORDER_FLIPS = "order_flips"
    ENTITY_PRECISION = "entity_precision"
    ENTITY_RECALL = "entity_recall"
    SCORE_SHIFT = "score_shift"
    EXACT_MATCH = "exact_match"
    ANSWER_F1 = "answer_f1"
    TOP5_OVERLAP = "top5_overlap"
    LAYER_MAX_RELATIVE = "layer_max_relative"
    LAYER_RMS_RELATIVE = "layer_rms_relative"
    LAYER_MIN_COSINE = "layer_min_cosine"
    LAYER_ADDED_RELATIVE = "layer_added_relative"

    @property
    def levels(self) -> tuple[Level, ...]:
        """What it is measured on; NaN and infinity count in outputs and layers."""
        if self is Metric.NON_FINITE:
            return Level.OUTPUT, Level.LAYER
        if self.value.startswith("layer_"):
            return (Level.LAYER,)
        if self in _OF_TASKS:
            return (Level.TASK,)
        return (Level.DECISION if self in _OF_DECISIONS else Level.OUTPUT,)


_OF_TASKS = frozenset({Metric.SPEARMAN, Metric.ORDER_FLIPS, Metric.TOP5_OVERLAP})
_OF_TASKS |= {Metric.ENTITY_PRECISION, Metric.ENTITY_RECALL, Metric.EXACT_MATCH, Metric.ANSWER_F1}
_OF_TASKS |= {Metric.SCORE_SHIFT}
HIGHER_IS_BETTER = frozenset({Metric.MIN_COSINE, Metric.CORRELATION, Metric.AGREEMENT})
HIGHER_IS_BETTER |= _OF_TASKS - {Metric.ORDER_FLIPS, Metric.SCORE_SHIFT} | {Metric.LAYER_MIN_COSINE}
TALLY_METRICS = frozenset({Metric.AGREEMENT, Metric.TIED_FLIPS, Metric.CONFIDENCE_SHIFT})
TALLY_METRICS |= {Metric.ACCURACY_DROP, Metric.ECE_SHIFT}
_OF_DECISIONS = TALLY_METRICS | {Metric.MEAN_KL}


@dataclass(frozen=True)
class Limit:
    """The worst value of a metric that passes.

    `bound` is a minimum for those of `HIGHER_IS_BETTER` and a maximum for the others. `origin` says
    who set it: we, a file of the user, or the command line.
    """

    metric: Metric
    bound: float
    reason: str
    origin: str = BUILT_IN

    def holds(self, value: float) -> bool:
        """Whether `value` is within the limit; NaN never is."""
        return value >= self.bound if self.metric in HIGHER_IS_BETTER else value <= self.bound


@dataclass(frozen=True)
class Limits:
    """All limits of one precision."""

    precision: str
    limits: tuple[Limit, ...]

    def bound(self, metric: Metric) -> float:
        """The bound of `metric`.

        Raises:
            KeyError: there is no limit on it.
        """
        return {limit.metric: limit.bound for limit in self.limits}[metric]

    def replaced(self, changes: Iterable[Limit]) -> Limits:
        """The limits with these in the place of those on the same metrics, or beside them."""
        limits = {limit.metric: limit for limit in (*self.limits, *changes)}
        return replace(self, limits=tuple(limits[m] for m in Metric if m in limits))


@cache
def limits_for(precision: str) -> Limits:
    """The limits that an artifact of this precision is held to.

    Raises:
        InputError: no limits are known for it.
    """
    if precision not in PRECISIONS:
        raise InputError(
            f"precision {precision!r}: no parity limits; known are {sorted(PRECISIONS)}"
        )
    text = files("exporter.parity").joinpath("limits.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)["limits"][precision]
    return Limits(precision, tuple(Limit(Metric(name), **entry) for name, entry in table.items()))


def widest(precisions: Iterable[str]) -> str:
    """Of some precisions the one whose limits are the widest."""
    return max(precisions, key=PRECISIONS.index)


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
    table: Any = data.get("limits", {})
    if unknown or not isinstance(table, dict):
        raise InputError(f"{path}: expected the table [limits], found {unknown or 'a value'}")
    # All of it is read, so that a slip in the limits of another precision shows now.
    sections: dict[str, list[Limit]] = {"": []}
    for name, value in table.items():
        if name not in PRECISIONS:
            sections[""].append(_from_entry(path, name, name, value))
            continue
        if not isinstance(value, dict):
            raise InputError(f"{path}: limits.{name} is {value!r}; expected a table")
        sections[name] = [
            _from_entry(path, f"{name}.{metric}", metric, entry) for metric, entry in value.items()
        ]
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
    known = {metric.value: metric for metric in Metric if metric is not Metric.NON_FINITE}
    if name not in known:
        raise InputError(f"{where}: unknown metric {name!r}; known are {', '.join(known)}")
    if isinstance(bound, bool) or not isinstance(bound, (int, float)) or not isfinite(bound):
        raise InputError(f"{where}: bound is {bound!r}; expected a number")
    metric = known[name]
    if bound < 0 or (metric in HIGHER_IS_BETTER and bound > 1):
        highest = "1" if metric in HIGHER_IS_BETTER else "any size"
        raise InputError(f"{where}: bound is {bound:g}; expected 0 to {highest}")
    return Limit(metric, float(bound), reason, origin)
