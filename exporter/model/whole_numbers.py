"""An input of a model as ids: whole numbers in one array."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exporter.errors import InputError


def whole_numbers(name: str, values: ArrayLike) -> NDArray[np.int64]:
    """The input `name` as a contiguous int64 array, of any shape.

    Raises InputError for rows of different lengths, and for numbers that are not whole.
    """
    try:
        array = np.asarray(values)
    except ValueError:
        raise InputError(f"{name}: rows of different lengths; pad them") from None
    if array.dtype.kind not in "iub":
        raise InputError(f"{name}: dtype {array.dtype}; expected whole numbers")
    return np.ascontiguousarray(array, dtype=np.int64)
