"""Tensors that the checkpoint has once are stored once: a masked LM's last matrix is its table."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir


def share_weights(model: ir.Model, sources: Mapping[str, str]) -> int:
    """Read initializers of one source as the first of them, and count those that are gone.

    `sources` has the source of an initializer by its name.
    """
    first: dict[str, ir.Value] = {}
    gone = 0
    for name, value in list(model.graph.initializers.items()):
        kept = first.setdefault(sources.get(name, f"{name} itself"), value)
        if kept is not value:
            value.replace_all_uses_with(kept)
            del model.graph.initializers[name]
            gone += 1
    return gone
