"""The scale table, calibration.json: thresholds per tensor and what was decided per site.

docs/calibration.md describes every field.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calibration.calibration_error import CalibrationError
from calibration.collectors import TensorStatistics
from calibration.json_values import field_of, read_json
from calibration.methods import METHODS, PERCENTILE, Method
from calibration.thresholds import INT8_MAX, SMALLEST_AMAX
from calibration.whole_files import write_whole

FORMAT = "deb-export-calibration"
SCHEMA = 1
MUCH_SATURATED = 0.01
"""A threshold that clips a larger share of the values than this is pointed out."""

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
SiteEntry: TypeAlias = Mapping[str, Json]
"""A site's recipe, see `calibration.recipes`, and what its fallback to float would cost."""


@dataclass(frozen=True)
class TensorScale:
    """Threshold of one activation tensor.

    Attributes:
        amax: |x| beyond it saturates; positive and finite.
        count, minimum, maximum: of the values that were seen.
        saturated: share of the values beyond `amax`, 0 to 1.

    Raises:
        CalibrationError: a figure is out of range.
    """

    amax: float
    count: int
    minimum: float
    maximum: float
    saturated: float = 0.0

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

    @property
    def int8_scale(self) -> float:
        return self.amax / INT8_MAX

    @property
    def all_zero(self) -> bool:
        """Whether only zeros were seen; `amax` is then arbitrary."""
        return self.minimum == self.maximum == 0


@dataclass(frozen=True, eq=False)
class ScaleTable:
    """All that a quantized build needs to know of a model and a calibration text.

    Attributes:
        model_hash: SHA-256 identity of the fp32 graph and weights, hexadecimal.
        data_hash: SHA-256 of the token ids; see `calibration.tokens.data_hash`.
        method, percentile: how `amax` was chosen; None for a method without percentile.
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
    ) -> ScaleTable:
        """The table of what was observed, with thresholds by `method`.

        Raises:
            CalibrationError: an unknown method, or a percentile out of range.
        """
        tensors = {}
        for name, seen in statistics.items():
            amax = seen.threshold(method, percentile=percentile)
            beyond = seen.histogram.share_above(amax)
            tensors[name] = TensorScale(amax, seen.count, seen.minimum, seen.maximum, beyond)
        used = percentile if method == "percentile" else None
        return cls(model_hash, data_hash, method, used, tensors)

    def matches(self, model_hash: str, data_hash: str | None = None) -> bool:
        """Whether the table is of this model and, where given, this text."""
        return self.model_hash == model_hash and data_hash in (None, self.data_hash)

    def require_model(self, model_hash: str, where: Path | str) -> None:
        """Raise a CalibrationError that names `where` if the table is of another model."""
        if self.model_hash != model_hash:
            raise CalibrationError(
                f"{where}: the scale table of another model ({self.model_hash[:12]}…; this one is "
                f"{model_hash[:12]}…); calibrate again, or name the checkpoint, and give the "
                "--task and --last-layer, that it was made of"
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
            "tensors": {
                name: {
                    "amax": item.amax,
                    "int8_scale": item.int8_scale,
                    "count": item.count,
                    "min": item.minimum,
                    "max": item.maximum,
                    "saturated": item.saturated,
                }
                for name, item in self.tensors.items()
            },
            "sites": {name: dict(entry) for name, entry in self.sites.items()},
        }

    @classmethod
    def from_dict(cls, data: object, where: Path | str = "calibration.json") -> ScaleTable:
        """The table that `data` describes; unknown fields are ignored.

        Where `amax` was edited, it is the threshold of the site as well: see docs/calibration.md.

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
        try:
            return _read(data)
        except ValueError as error:
            raise CalibrationError(f"{where}: {error}; calibrate again") from None

    def save(self, path: Path) -> None:
        """Write the table whole, or raise OSError and leave what was there."""
        write_whole(path, json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> ScaleTable:
        """Read and check a table; a CalibrationError says why there is none."""
        try:
            data = read_json(path)
        except OSError as error:
            reason = f"cannot read the scale table {path}: {error.strerror}"
            raise CalibrationError(reason) from error
        except ValueError as error:
            raise CalibrationError(f"{path}: not a scale table: {error}") from error
        return cls.from_dict(data, path)


def encode_array(array: NDArray[Any]) -> str:
    """A float32 vector for a site's entry: base64 of its little-endian bytes."""
    return base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode("ascii")


def decode_array(text: str) -> NDArray[np.float32]:
    """The vector that `encode_array` wrote; CalibrationError where it is not base64 of float32."""
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32)
    except (binascii.Error, ValueError) as error:
        raise CalibrationError(f"not base64 of float32 numbers: {error}") from error


def _read(data: Mapping[str, Any]) -> ScaleTable:
    how = field_of(data, "method", dict)
    method = field_of(how, "name", str)
    if method not in METHODS:
        raise CalibrationError(f"method {method!r}; known are {', '.join(METHODS)}")
    model_hash, data_hash = (field_of(data, key, str) for key in ("model_hash", "data_hash"))
    for key in ("model_hash", "data_hash"):
        if not data[key]:
            raise CalibrationError(f"{key} is ''; expected text")
    percentile = field_of(how, "percentile", float) if "percentile" in how else None
    entries, sites = (field_of(data, key, dict) for key in ("tensors", "sites"))
    sites = {name: field_of(sites, name, dict) for name in sites}
    tensors = {}
    for name in entries:
        entry = field_of(entries, name, dict)
        try:
            tensors[name] = item = TensorScale(
                field_of(entry, "amax", float),
                field_of(entry, "count", int),
                *(field_of(entry, key, float) for key in ("min", "max", "saturated")),
            )
            if name in sites:
                sites[name] = _with_edit(sites[name], item, entry, method)
        except ValueError as error:
            raise CalibrationError(f"tensor {name!r}: {error}") from None
    return ScaleTable(model_hash, data_hash, method, percentile, tensors, sites)


def _with_edit(
    site: dict[str, Any], item: TensorScale, entry: Mapping[str, Any], method: Method
) -> dict[str, Any]:
    """The site with `amax` as its threshold in every format, if it is not what calibration wrote.

    That is known by what follows from it in the file. Smoothing keeps the largest magnitude of an
    input, so `amax` is on its scale too. What int8 adds to each channel was measured with the old
    threshold, and is not known with the new one.
    """
    amax, smoothed = item.amax, site.get("factors") is not None
    if item.all_zero or "int8_threshold" not in site:
        return site
    edited = (
        entry.get("int8_scale", item.int8_scale) != item.int8_scale
        or (not smoothed and site["int8_threshold"] != amax)
        or (method == "minmax" and amax != max(-item.minimum, item.maximum, SMALLEST_AMAX))
    )
    if not edited:
        return site
    error = np.zeros_like(decode_array(field_of(site, "int8_mean_error", str)))
    changed = {"int8_threshold": amax, "largest": amax, "int8_mean_error": encode_array(error)}
    return {**site, **changed}


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
