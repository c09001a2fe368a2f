"""Labels of tokens as entities: the schemes B-/I-, with E- or L- for the last and S- or U- for all.

A name without a prefix is a type itself, and `O` is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OUTSIDE = "O"
_BEGINS, _ENDS = "BSU", "ELSU"


@dataclass(frozen=True)
class Tag:
    """What a label says of its token: the type of its entity, whether one begins or ends there."""

    kind: str
    begins: bool = False
    ends: bool = False


def tags_of(names: Sequence[str]) -> tuple[Tag, ...]:
    """The tag of each label.

    Only `B-` and `I-` are prefixes by themselves; the others are where the labels have one of these
    for the same type, so that a type may be called `E-mail`.
    """
    typed = {name[2:] for name in names if name[:2] in ("B-", "I-")}
    tags = []
    for name in names:
        prefix, kind = name[:1], name[2:]
        if name[1:2] == "-" and prefix in "BIELSU" and kind in typed:
            tags.append(Tag(kind, prefix in _BEGINS, prefix in _ENDS))
        else:
            tags.append(Tag(name))
    return tuple(tags)


def entity_runs(
    names: Sequence[str], labels: NDArray[np.int64], starts: NDArray[np.bool_]
) -> list[tuple[int, int, str]]:
    """Entities as first token, token behind the last, type: each a maximal run of one type.

    Args:
        names: of the labels.
        labels: `(N,)`, of the tokens or words.
        starts: `(N,)`, the first of a text, where a run ends as well.
    """
    tags = tags_of(names)
    kinds = sorted({tag.kind for tag in tags})
    kind = np.array([kinds.index(tag.kind) for tag in tags], np.int64)[labels]
    begins = np.array([tag.begins for tag in tags], np.bool_)[labels]
    ends = np.array([tag.ends for tag in tags], np.bool_)[labels]
    after = np.concatenate([np.zeros(1, np.bool_), ends[:-1]])[: len(labels)]
    edges = np.flatnonzero((np.diff(kind, prepend=-1) != 0) | begins | after | starts)
    stops = np.append(edges, len(labels))[1:]
    runs = zip(edges.tolist(), stops.tolist(), strict=True)
    found = ((first, stop, kinds[kind[first]]) for first, stop in runs)
    return [item for item in found if item[2] != OUTSIDE]
