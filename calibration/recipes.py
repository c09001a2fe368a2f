"""What calibration found for a site: all that its quantization needs beside its weights.

A recipe holds figures of the input only, so that one scale table serves int8 and fp8, and every
later build of the same model: thresholds of weights and shifts of biases follow from the weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from calibration.bias_correction import rounding_error
from calibration.calibration_error import CalibrationError
from calibration.collectors import TensorStatistics
from calibration.formats import Floats, NumberFormat
from calibration.json_values import field_of
from calibration.methods import Method
from calibration.sites import Site
from calibration.smoothing import search
from calibration.table import SiteEntry, decode_array, encode_array
from calibration.thresholds import threshold_of

SEARCH_ROWS = 1024  # of the sample, which the search for a strength multiplies by the weight
# The vectors of a recipe, and what is below their numbers.
_ABOVE = {"factors": 0.0, "mean": -np.inf, "mean_square": -1.0, "mean_error": -np.inf}
_SAMPLE_ROWS = 2048
_SAMPLE_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class SiteRecipe:
    """Figures of a site's input after smoothing: of `x / s`, or of `x` where there is none.

    Attributes:
        strength, factors: of the smoothing, `s` being fp32 `(K,)`; None for none.
        largest: largest magnitude.
        threshold: magnitude at which int8 saturates.
        mean, mean_square: fp32 `(K,)`.
        mean_error: fp32 `(K,)`, mean of what int8 adds to each channel.
        error: relative squared error of the site's output in int8, as the search measured it.
        error_plain: the same without smoothing.
    """

    strength: float | None
    factors: Floats | None
    largest: float
    threshold: float
    mean: Floats
    mean_square: Floats
    mean_error: Floats
    error: float
    error_plain: float

    def threshold_for(self, number: NumberFormat) -> float:
        """Where the format saturates: fp8 keeps outliers, which cost its other values nothing."""
        return self.threshold if number.is_integer else self.largest

    @property
    def all_zero(self) -> bool:
        """Whether the input was zero throughout, so that it shows no scale."""
        return self.largest == 0

    def to_entry(self) -> dict[str, Any]:
        """The site's entry in a scale table: numbers as they are, vectors as text."""
        return {
            _key(name): encode_array(value) if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
        }

    @classmethod
    def from_entry(cls, site: Site, entry: SiteEntry) -> SiteRecipe:
        """The recipe that `to_entry` wrote.

        Raises:
            CalibrationError: a field is missing or malformed, or of another number of channels.
        """
        try:
            return cls(**{item.name: _figure(site, entry, item.name) for item in fields(cls)})
        except (KeyError, ValueError) as error:
            reason = f"the entry of {site.name} is broken ({error}); calibrate again"
            raise CalibrationError(f"scale table: {reason}") from None


Recipes = Mapping[str, SiteRecipe]
"""Recipes by name of site."""


def sample_rows(sites: Iterable[Site]) -> int:
    """Rows to keep of each site's input: so many that all samples together stay below 1 GiB."""
    channels = sum(site.in_features for site in sites)
    return max(1, min(_SAMPLE_ROWS, _SAMPLE_BYTES // (4 * max(1, channels))))


def make_recipe(
    site: Site, seen: TensorStatistics, weight: Floats, method: Method, percentile: float
) -> SiteRecipe:
    """Search the smoothing of a site by `weight` `(K, N)`, and take figures of its smoothed input.

    `seen` is its input on calibration text, with sampled rows.

    Raises:
        CalibrationError: an unknown method, or a percentile out of range.
    """

    def limit_of(values: Floats, channel_amax: Floats) -> float:
        if method == "minmax":
            return float(channel_amax.max())
        return threshold_of(values, method, percentile=percentile)

    choice = search(site, seen.sample[:SEARCH_ROWS], seen.channel_amax, weight, limit_of)
    mean, square = seen.channel_mean, seen.channel_mean_square
    sample, largest = seen.sample, float(seen.channel_amax.max())
    if choice.factors is None:
        limit = seen.threshold(method, percentile=percentile)
    else:
        factors = choice.factors
        sample, channel_amax = sample / factors, seen.channel_amax / factors
        mean, square = mean / factors, square / np.square(factors)
        largest, limit = float(channel_amax.max()), limit_of(sample, channel_amax)
    return SiteRecipe(
        strength=choice.strength,
        factors=choice.factors,
        largest=largest,
        threshold=limit,
        mean=mean.astype(np.float32),
        mean_square=square.astype(np.float32),
        mean_error=rounding_error(sample, limit, NumberFormat.INT8),
        error=choice.errors[choice.strength],
        error_plain=choice.errors[None],
    )


def _key(name: str) -> str:
    """How an entry calls a figure: those of int8 say so."""
    return f"int8_{name}" if name in ("threshold", "mean_error", "error", "error_plain") else name


def _figure(site: Site, entry: SiteEntry, name: str) -> Any:
    """A number or vector of an entry; None is only for a site without smoothing."""
    key = _key(name)
    if name in ("strength", "factors") and entry[key] is None:
        return None
    if name not in _ABOVE:
        value = field_of(entry, key, float)
        if not (np.isfinite(value) and value >= 0):
            raise ValueError(f"{key} is {value!r}")
        return value
    vector = decode_array(field_of(entry, key, str))
    if vector.shape != (site.in_features,):
        raise ValueError(f"{key} has {vector.size} numbers, expected {site.in_features}")
    if not (np.isfinite(vector).all() and (vector > _ABOVE[name]).all()):
        raise ValueError(f"{key} is out of range")
    return vector
