"""Token ids saved in a file as inputs: NumPy's `.npz`, or the JSON that Polygraphy writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from exporter.errors import InputError
from exporter.inputs.cases import BATCH, DataSet, ParityCase
from exporter.inputs.polygraphy_json import read_inputs
from exporter.model.feeds import Ids, make_feeds
from exporter.model.model_shape import ModelShape


def read_npz(path: Path, shape: ModelShape) -> DataSet:
    """Batches of the arrays in a `.npz`.

    These are `input_ids`, and where wanted `attention_mask`, `token_type_ids` and `labels` `(N,)`;
    all but the last whole numbers `(N, S)`, or `(N, C, S)` for multiple choice. Raises InputError
    when the file is unusable, or an array has another name, type, shape or value.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not hasattr(archive, "files"):
                raise InputError(f"{path}: a single array; save with numpy.savez")
            arrays = {name: archive[name] for name in archive.files}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (BadZipFile, ValueError, EOFError) as error:
        raise InputError(f"{path}: not a .npz of plain arrays ({error})") from None
    labels = _labels(path, arrays.pop("labels", None), shape)
    feeds = _feeds(path, arrays, shape)
    count = len(feeds["input_ids"])
    if labels is not None and labels.shape != (count,):
        raise InputError(f"{path}: labels have shape {labels.shape}; expected ({count},)")
    cases = []
    for start in range(0, count, BATCH):
        stop = min(start + BATCH, count)
        rows = {name: np.ascontiguousarray(array[start:stop]) for name, array in feeds.items()}
        known = None if labels is None else tuple(labels[start:stop].tolist())
        cases.append(ParityCase(f"rows {start + 1} to {stop}", rows, (), known))
    return DataSet(path.name, tuple(cases))


def read_json_inputs(path: Path, shape: ModelShape) -> DataSet:
    """Batches as `polygraphy run --save-inputs` writes them, one an iteration.

    Raises InputError when the file is not of that format, or holds other than the model's inputs.
    """
    cases = [
        ParityCase(f"iteration {index}", _feeds(path, arrays, shape), ())
        for index, arrays in enumerate(read_inputs(path))
    ]
    if not cases:
        raise InputError(f"{path}: no inputs in it")
    return DataSet(path.name, tuple(cases))


def _feeds(path: Path, arrays: Mapping[str, NDArray[Any]], shape: ModelShape) -> dict[str, Ids]:
    known = {"input_ids", "attention_mask", "token_type_ids", *shape.inputs}
    if "input_ids" not in arrays or set(arrays) - known:
        raise InputError(
            f"{path}: arrays are {sorted(arrays)}; expected input_ids, and where wanted "
            "attention_mask, token_type_ids, labels"
        )
    try:
        feeds = make_feeds(shape, **arrays)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if not (feeds["attention_mask"] != 0).any():
        raise InputError(f"{path}: attention_mask is 0 everywhere; nothing could be compared")
    return feeds


def _labels(path: Path, array: NDArray[Any] | None, shape: ModelShape) -> Ids | None:
    if array is None:
        return None
    if array.dtype.kind not in "iu":
        raise InputError(f"{path}: labels have dtype {array.dtype}; expected whole numbers")
    labels = array.astype(np.int64)
    count = shape.num_labels
    if shape.rank == 2 and labels.size and not (0 <= labels.min() <= labels.max() < count):
        wrong = labels[(labels < 0) | (labels >= count)][0]
        raise InputError(f"{path}: label {wrong}; the model has {count} labels")
    return labels
