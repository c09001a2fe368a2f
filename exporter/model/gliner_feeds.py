"""Inputs of a GLiNER model from a caller, checked before a model sees them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exporter.errors import InputError
from exporter.model.gliner_head import GlinerHead, text_feeds
from exporter.model.whole_numbers import whole_numbers

Ids = NDArray[np.int64]


def gliner_feeds(
    head: GlinerHead, tokens: tuple[int, ...], given: Mapping[str, ArrayLike | None]
) -> dict[str, NDArray[Any]]:
    """What GLiNER reads beside ids of the shape `tokens`, `(B, S)`: see `GlinerHead.inputs`.

    Spans that nobody gives are all of them. Raises InputError, naming the input, for one that is
    missing, of a wrong shape or type, or has a word that there is not.
    """
    unknown = sorted(set(given) - set(head.inputs))
    if unknown:
        raise InputError(f"{unknown[0]}: not an input of this model, which has {head.inputs}")
    words, lengths = (_numbers(name, given.get(name)) for name in ("words_mask", "text_lengths"))
    _check_shape("words_mask", words, tokens)
    lengths = lengths.reshape(-1, 1) if lengths.ndim == 1 else lengths
    _check_shape("text_lengths", lengths, (tokens[0], 1))
    if lengths.min() < 1:
        raise InputError(f"text_lengths: {lengths.min()} words; give one at least")
    feeds: dict[str, NDArray[Any]] = {"words_mask": words, "text_lengths": lengths}
    if head.scores_spans:
        spans, mask = given.get("span_idx"), given.get("span_mask")
        if spans is None and mask is None:
            feeds |= text_feeds(head, lengths[:, 0])
        else:
            feeds |= _spans(head, tokens[0], _numbers("span_idx", spans), mask)
    return feeds


def _spans(
    head: GlinerHead, batch: int, spans: Ids, mask: ArrayLike | None
) -> dict[str, NDArray[Any]]:
    count = spans.shape[1] if spans.ndim == 3 else 0
    _check_shape("span_idx", spans, (batch, count, 2))
    if count == 0 or count % head.max_width:
        many = f"expected a multiple of max_width ({head.max_width})"
        raise InputError(f"span_idx: {count} spans of a text; {many}")
    kept = np.ascontiguousarray(_numbers("span_mask", mask), np.bool_)
    _check_shape("span_mask", kept, (batch, count))
    words = count // head.max_width
    if not 0 <= (inside := spans * kept[..., None]).min() <= inside.max() < words:
        raise InputError(f"span_idx: words {inside.min()} to {inside.max()}; there are {words}")
    return {"span_idx": spans, "span_mask": kept}


def _numbers(name: str, values: ArrayLike | None) -> Ids:
    if values is None:
        raise InputError(f"{name}: missing")
    return whole_numbers(name, values)


def _check_shape(name: str, array: NDArray[Any], wanted: tuple[int, ...]) -> None:
    if array.shape != wanted:
        raise InputError(f"{name}: shape {array.shape}; expected {wanted}")
