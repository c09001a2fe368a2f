"""Tensors of a GLiNER model under our names: the encoder's as of any model, the head's in parts.

Two linear layers over vectors that are set side by side are a sum: of each part by itself, which
is computed once a word or label and not once a span. `D` is the head's width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch

from exporter.deberta.weight_names import ANCHOR, bare_names
from exporter.deberta.weights import StoredTensor, WeightStore
from exporter.errors import InputError

_ENCODER = "token_rep_layer.bert_layer.model."
_PREFIXES = {
    "token_rep_layer.projection.": "projection.",
    "span_rep_layer.span_rep_layer.": "span_scorer.",
    "prompt_rep_layer.": "span_scorer.prompt.",
    "scorer.": "token_scorer.",
}
"""What the names of a head begin with, and what they begin with here."""

Part = Callable[[torch.Tensor], torch.Tensor]


def _columns(first: int, of: int) -> Part:
    """One of several blocks of columns of a matrix."""
    return lambda matrix: matrix.chunk(of, dim=1)[first].contiguous()


def _transposed(matrix: torch.Tensor) -> torch.Tensor:
    return matrix.T.contiguous()


def _row(vector: torch.Tensor) -> torch.Tensor:
    return vector[None]


_PARTS: Mapping[str, Mapping[str, Part]] = {
    "span_scorer.out_project.0.weight": {
        "span_scorer.start.weight": _columns(0, 2),
        "span_scorer.end.weight": _columns(1, 2),
    },
    "span_scorer.out_project.0.bias": {"span_scorer.start.bias": torch.Tensor.detach},
    "span_scorer.out_project.3.weight": {"span_scorer.label.weight": _transposed},
    "span_scorer.out_project.3.bias": {"span_scorer.label_bias.weight": _row},
    "token_scorer.out_mlp.0.weight": {
        "token_scorer.word.weight": _columns(0, 3),
        "token_scorer.label.weight": _columns(1, 3),
        "token_scorer.pair.weight": _columns(2, 3),
    },
    "token_scorer.out_mlp.0.bias": {"token_scorer.word.bias": torch.Tensor.detach},
    "token_scorer.out_mlp.3.weight": {"token_scorer.out.weight": torch.Tensor.detach},
    "token_scorer.out_mlp.3.bias": {"token_scorer.out.bias": torch.Tensor.detach},
}
"""A stored tensor, and what the model has of it: see `exporter.deberta.gliner_modeling`."""


def gliner_store(store: WeightStore, where: str) -> WeightStore:
    """The tensors of a GLiNER model by bare name.

    Raises:
        InputError: there is no encoder among them where one is expected.
    """
    prefix = _prefix(store.tensors, where)
    encoder = [name for name in store.tensors if name.startswith(prefix + _ENCODER)]
    tensors = {
        bare: store.tensors[name] for bare, name in bare_names(encoder, prefix + _ENCODER).items()
    }
    for name, tensor in store.tensors.items():
        if name.startswith(prefix + _ENCODER):
            continue
        short = name.removeprefix(prefix)
        for theirs, ours in _PREFIXES.items():
            if short.startswith(theirs):
                short = ours + short.removeprefix(theirs)
        tensors.update(_parts(short, tensor))
    notes = store.notes
    if prefix:
        notes += (f"{where}: all tensors begin with {prefix!r}, which is left out",)
    return WeightStore(store.files, tensors, notes)


def _parts(name: str, stored: StoredTensor) -> Iterator[tuple[str, StoredTensor]]:
    """What the model has of a stored tensor: itself as a rule."""
    if name not in _PARTS:
        yield name, stored
        return
    for part, take in _PARTS[name].items():
        with torch.device("meta"):
            shape = tuple(take(torch.empty(stored.shape)).shape) if stored.shape else ()
        yield part, StoredTensor(stored.name, shape, partial(_taken, stored, take))


def _taken(stored: StoredTensor, take: Part) -> torch.Tensor:
    return take(stored.read())


def _prefix(names: Mapping[str, StoredTensor], where: str) -> str:
    """What stands before all names, such as that of a wrapper: `""` as a rule."""
    anchor = _ENCODER + ANCHOR
    before = [name.removesuffix(anchor) for name in names if name.endswith(anchor)]
    if not before or not all(name.startswith(before[0]) for name in names):
        raise InputError(
            f"{where}: no tensor {anchor} among the weights, or not all beside it; these are not "
            "weights that gliner wrote of a DeBERTa encoder"
        )
    return before[0]
