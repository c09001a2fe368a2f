"""Names of the ways to choose a threshold; light, since the command line's help reads them."""

from typing import Literal, get_args

Method = Literal["minmax", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)
"""How the threshold of an activation is chosen, see docs/calibration.md."""

PERCENTILE = 99.999
"""Per cent of the values that are not clipped, by default."""
