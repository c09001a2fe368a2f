"""Token ids from a caller, checked and cast before a model sees them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exporter.errors import InputError
from exporter.model.gliner_feeds import gliner_feeds
from exporter.model.model_shape import ModelShape
from exporter.model.whole_numbers import whole_numbers

Ids = NDArray[np.int64]


def make_feeds(
    shape: ModelShape,
    input_ids: ArrayLike,
    attention_mask: ArrayLike | None = None,
    token_type_ids: ArrayLike | None = None,
    **words: ArrayLike | None,
) -> dict[str, Ids]:
    """The inputs of a model as int64 arrays by name, `(B, S)`, or `(B, C, S)` with `C` choices.

    `input_ids` are below `vocab_size`; `attention_mask` is 1 for a token, 0 for padding, ones by
    default; `token_type_ids` are below `type_vocab_size`, zeros by default, and ignored, as
    transformers does, where the model has no embeddings for them; `words` are those of GLiNER, see
    `gliner_feeds`. Raises InputError, naming the input, for a wrong rank, dtype, size or value.
    """
    ids = whole_numbers("input_ids", input_ids)
    if ids.ndim != shape.rank:
        wanted = "(batch, choices, sequence)" if shape.rank == 3 else "(batch, sequence)"
        raise InputError(f"input_ids: shape {ids.shape}; {shape.task} takes {wanted}")
    if ids.size == 0:
        raise InputError(f"input_ids: shape {ids.shape} is empty; give at least one token")
    if shape.longest is not None and ids.shape[-1] > shape.longest:
        raise InputError(
            f"input_ids: {ids.shape[-1]} tokens, but the model has positions for {shape.longest}; "
            "truncate the text"
        )
    _check_values("input_ids", ids, shape.vocab_size, "vocab_size")
    mask = _beside(ids, "attention_mask", attention_mask, 1)
    _check_values("attention_mask", mask, 2, "2")
    feeds = {"input_ids": ids, "attention_mask": mask}
    if shape.gliner is not None:
        return feeds | gliner_feeds(shape.gliner, ids.shape, words)
    if words:
        raise InputError(f"{min(words)}: not an input of this model, which has {shape.inputs}")
    if "token_type_ids" in shape.inputs:
        types = _beside(ids, "token_type_ids", token_type_ids, 0)
        _check_values("token_type_ids", types, shape.type_vocab_size, "type_vocab_size")
        feeds["token_type_ids"] = types
    return feeds


def _beside(ids: Ids, name: str, values: ArrayLike | None, default: int) -> Ids:
    """An input of the shape of `ids`, filled with `default` where the caller gives none."""
    array = np.full_like(ids, default) if values is None else whole_numbers(name, values)
    if array.shape != ids.shape:
        raise InputError(f"{name}: shape {array.shape}; input_ids has {ids.shape}")
    return array


def _check_values(name: str, array: Ids, bound: int, bound_name: str) -> None:
    wrong = int(array.min()) if array.min() < 0 else int(array.max())
    if not 0 <= wrong < bound:
        known = f" ({bound})" if bound_name != str(bound) else ""
        raise InputError(f"{name}: value {wrong}; expected 0 up to below {bound_name}{known}")
