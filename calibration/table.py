"""The scale table, calibration.json: thresholds per tensor and what was decided per site.

docs/calibration.md describes every field. The file has no path, no time and no machine in it: it
is valid wherever the same weights and the same text are.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calibration.collectors import TensorStatistics
from calibration.errors import CalibrationError
from calibration.methods import METHODS, PERCENTILE, Method
from calibration.thresholds import INT8_MAX
from calibration.whole_files import write_whole

FORMAT = "deb-export-calibration"
SCHEMA = 1
MUCH_SATURATED = 0.01
"""A threshold that clips a larger share of the values than this is pointed out."""

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
SiteEntry: TypeAlias = "Mapping[str, Json]"
"""What later stages note for a site: smoothing strength, clipping, fallback and its reason."""


@dataclass(frozen=True, eq=False)
class TensorScale:
    """Threshold of one activation tensor.

    Attributes:
        amax: |x| beyond it saturates; positive and finite.
        count: values that were seen.
        minimum: smallest value that was seen.
        maximum: largest value that was seen.
        saturated: share of the values beyond `amax`, 0 to 1.
        channel_amax: (C,) float32, largest |x| per channel, if kept.

    Raises:
        CalibrationError: a figure is out of range.
    """

    amax: float
    count: int
    minimum: float
    maximum: float
    saturated: float = 0.0
    channel_amax: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.amax) and self.amax > 0):
            raise CalibrationError(f"amax is {self.amax}; it must be positive and finite")
        if self.count < 1:
            raise CalibrationError(f"count is {self.count}; it must be at least 1")
        # Written so that a NaN fails too.
        if not (math.isfinite(self.maximum - self.minimum) and self.minimum <= self.maximum):
            raise CalibrationError(f"the range is {self.minimum} to {self.maximum}")
        if not 0 <= self.saturated <= 1:
            raise CalibrationError(f"saturated is {self.saturated}; it is a share, 0 to 1")
        channels = self.channel_amax
        if channels is not None and not (np.isfinite(channels).all() and (channels >= 0).all()):
            raise CalibrationError("channel_amax holds a negative or infinite value or NaN")

    def scale(self, largest_code: float = INT8_MAX) -> float:
        """Step of a symmetric format whose largest number is `largest_code`; 448 for E4M3."""
        return self.amax / largest_code

    @property
    def all_zero(self) -> bool:
        """Whether only zeros were seen; `amax` is then arbitrary."""
        return self.minimum == self.maximum == 0


@dataclass(frozen=True, eq=False)
class ScaleTable:
    """All that a quantized build needs to know of a model and a calibration text.

    Attributes:
        model_hash: SHA-256 identity of the fp32 graph and weights, hexadecimal.
        data_hash: SHA-256 of the token ids; see `calibration.batches.data_hash`.
        method: how `amax` was chosen.
        percentile: of that method; None for the others.
        tensors: by name of the tensor, or of the site that reads it.
        sites: notes of later stages by name of the site.
    """

    model_hash: str
    data_hash: str
    method: Method
    percentile: float | None
    tensors: Mapping[str, TensorScale]
    sites: Mapping[str, SiteEntry] = field(default_factory=dict)

    @classmethod
    def from_statistics(
        cls,
        statistics: Mapping[str, TensorStatistics],
        *,
        model_hash: str,
        data_hash: str,
        method: Method,
        percentile: float = PERCENTILE,
        keep_channels: bool = True,
    ) -> ScaleTable:
        """The table of what was observed, with thresholds by `method`.

        Raises:
            CalibrationError: an unknown method, or a percentile out of range.
        """
        tensors = {}
        for name, seen in statistics.items():
            amax = seen.threshold(method, percentile=percentile)
            tensors[name] = TensorScale(
                amax=amax,
                count=seen.count,
                minimum=seen.minimum,
                maximum=seen.maximum,
                saturated=seen.saturation(amax),
                channel_amax=seen.channel_amax if keep_channels else None,
            )
        used = percentile if method == "percentile" else None
        return cls(model_hash, data_hash, method, used, tensors)

    def matches(self, model_hash: str, data_hash: str | None = None) -> bool:
        """Whether the table is of this model and, where given, this text."""
        return self.model_hash == model_hash and data_hash in (None, self.data_hash)

    def require_model(self, model_hash: str, where: Path | str) -> None:
        """Refuse a table of another model; `where` is named in the message.

        Raises:
            CalibrationError: the model's hash differs.
        """
        if self.model_hash != model_hash:
            raise CalibrationError(
                f"{where}: the scale table of another model ({self.model_hash[:12]}…; this one is "
                f"{model_hash[:12]}…); calibrate again, or name the checkpoint that it was made of"
            )

    def warnings(self) -> tuple[str, ...]:
        """What is suspect about the thresholds, one sentence each."""
        found = []
        zeros = [name for name, item in self.tensors.items() if item.all_zero]
        if zeros:
            found.append(f"only zeros were seen in {_some(zeros)}: their scales are arbitrary")
        clipped = [n for n, item in self.tensors.items() if item.saturated > MUCH_SATURATED]
        if clipped:
            found.append(
                f"{self.method} clips more than {100 * MUCH_SATURATED:.0f} % of the values of "
                f"{_some(clipped)}; try another method"
            )
        return tuple(found)

    def with_sites(self, sites: Mapping[str, SiteEntry]) -> ScaleTable:
        """The same table, these entries added to the sites or put in place of theirs."""
        return replace(self, sites={**self.sites, **sites})

    def to_dict(self) -> dict[str, Any]:
        """The content of calibration.json."""
        method: dict[str, Any] = {"name": self.method}
        if self.percentile is not None:
            method["percentile"] = self.percentile
        return {
            "format": FORMAT,
            "schema": SCHEMA,
            "model_hash": self.model_hash,
            "data_hash": self.data_hash,
            "method": method,
            "tensors": {name: _tensor_to_dict(item) for name, item in self.tensors.items()},
            "sites": {name: dict(entry) for name, entry in self.sites.items()},
        }

    @classmethod
    def from_dict(cls, data: object, where: Path | str = "calibration.json") -> ScaleTable:
        """The table that `data` describes; unknown fields are ignored.

        Raises:
            CalibrationError: another format or schema, or a field that is missing or malformed; the
                message names `where` and the field.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise CalibrationError(f"{where}: not a scale table of deb-export; calibrate again")
        if data.get("schema") != SCHEMA:
            raise CalibrationError(
                f"{where}: schema {data.get('schema')!r}, this version reads {SCHEMA}; "
                "calibrate again, or use the version that made it"
            )
        return _Reader(str(where)).table(data)

    def save(self, path: Path) -> None:
        """Write the table; the file appears whole or not at all.

        Raises:
            OSError: the file cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"
        write_whole(path, text)

    @classmethod
    def load(cls, path: Path) -> ScaleTable:
        """Read and check a table.

        Raises:
            CalibrationError: no such file, or no valid table.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
        except OSError as error:
            raise CalibrationError(
                f"cannot read the scale table {path}: {error.strerror}"
            ) from error
        except (ValueError, RecursionError) as error:
            raise CalibrationError(f"{path}: not a scale table: {error}") from error
        return cls.from_dict(data, path)


def encode_array(array: NDArray[Any]) -> str:
    """A float32 vector for a site's entry: base64 of its little-endian bytes."""
    return base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode("ascii")


def decode_array(text: str) -> NDArray[np.float32]:
    """The vector that `encode_array` wrote.

    Raises:
        CalibrationError: not base64 of whole float32 numbers.
    """
    try:
        raw = base64.b64decode(text, validate=True)
        return np.frombuffer(raw, "<f4").astype(np.float32)
    except (binascii.Error, ValueError) as error:
        raise CalibrationError(f"not base64 of float32 numbers: {error}") from error


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _tensor_to_dict(item: TensorScale) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "amax": item.amax,
        "int8_scale": item.scale(),
        "count": item.count,
        "min": item.minimum,
        "max": item.maximum,
        "saturated": item.saturated,
    }
    if item.channel_amax is not None:
        entry["channel_amax"] = encode_array(item.channel_amax)
    return entry


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


@dataclass(frozen=True)
class _Reader:
    """Checks types on the way from JSON; every message says where."""

    where: str

    def table(self, data: dict[str, Any]) -> ScaleTable:
        method = self.mapping(data, "method")
        name = self.text(method, "name")
        if name not in METHODS:
            self.fail(f"method {name!r}; known are {', '.join(METHODS)}")
        tensors = self.mapping(data, "tensors")
        sites = self.mapping(data, "sites")
        return ScaleTable(
            model_hash=self.text(data, "model_hash"),
            data_hash=self.text(data, "data_hash"),
            method=name,
            percentile=self.number(method, "percentile") if "percentile" in method else None,
            tensors={key: self.tensor(key, self.mapping(tensors, key)) for key in tensors},
            sites={key: self.mapping(sites, key) for key in sites},
        )

    def tensor(self, name: str, entry: dict[str, Any]) -> TensorScale:
        try:
            channels = entry.get("channel_amax")
            return TensorScale(
                amax=self.number(entry, "amax"),
                count=self.integer(entry, "count"),
                minimum=self.number(entry, "min"),
                maximum=self.number(entry, "max"),
                saturated=self.number(entry, "saturated"),
                channel_amax=(
                    None if channels is None else decode_array(self.text(entry, "channel_amax"))
                ),
            )
        except CalibrationError as error:
            message = str(error).removeprefix(f"{self.where}: ")
            raise CalibrationError(f"{self.where}: tensor {name!r}: {message}") from error

    def mapping(self, data: dict[str, Any], key: str) -> dict[str, Any]:
        value = self.get(data, key)
        if not isinstance(value, dict):
            self.fail(f"{key} is no object")
        return value

    def text(self, data: dict[str, Any], key: str) -> str:
        value = self.get(data, key)
        if not isinstance(value, str) or not value:
            self.fail(f"{key} is {value!r}; expected text")
        return value

    def number(self, data: dict[str, Any], key: str) -> float:
        value = self.get(data, key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self.fail(f"{key} is {value!r}; expected a number")
        try:
            return float(value)
        except OverflowError:
            self.fail(f"{key} is out of range")

    def integer(self, data: dict[str, Any], key: str) -> int:
        value = self.get(data, key)
        if isinstance(value, bool) or not isinstance(value, int):
            self.fail(f"{key} is {value!r}; expected a whole number")
        return value

    def get(self, data: dict[str, Any], key: str) -> Any:
        if key not in data:
            self.fail(f"{key} is missing")
        return data[key]

    def fail(self, message: str) -> NoReturn:
        raise CalibrationError(f"{self.where}: {message}; calibrate again")
