"""The operator `deb_export::DisentangledAttention`, version 1: one layer's attention as one node.

`B` batch, `S` sequence, `H` heads, `D` head size, `R` position slots, `P` the distance at which the
slots saturate.

==========  =======================  ==============================================================
qkv         float, (B, S, 3*H*D)     query, key, value projections, biases added, packed in order
pos_key     float, (H, R, D)         projected relative embeddings, content-to-position
pos_query   float, (H, R, D)         the same, position-to-content
slots       int32, (2*P + 1)         slot of the distance clip(i - j, -P, P) + P
mask        int32 or bool, (B, S)    1 for a key that may be attended
context     float, (B, S, H*D)       output
==========  =======================  ==============================================================

`context = softmax(scale * (Q.K^T + Q.pos_key[slots] + (K.pos_query[slots])^T) + mask) . V`

An absent term has its attribute (`c2p`, `p2c`) 0 and a placeholder tensor of shape (H, 1, D).
Rows of padded queries are unspecified; a row without any key to attend to is finite.

`deb_export::DisentangledAttentionFirst` has the same inputs and attributes, and gives the context
of the first query alone: (B, 1, H*D). It is the last layer's of a model that reads one row of it.
It is an operator of its own because a local function has one body, and a runtime chooses by name.
"""

from __future__ import annotations

DOMAIN = "deb_export"
OP_TYPE = "DisentangledAttention"
FIRST_OP_TYPE = "DisentangledAttentionFirst"
QUERIES: dict[str, int | None] = {OP_TYPE: None, FIRST_OP_TYPE: 1}
"""Leading rows of the context that each operator gives; None for all."""
OPERATORS = frozenset((DOMAIN, op_type) for op_type in QUERIES)
"""Domain and type of the nodes that are a layer's attention."""
VERSION = 1

RANKS = {"qkv": 3, "pos_key": 3, "pos_query": 3, "slots": 1, "mask": 2}
INPUTS = tuple(RANKS)
OUTPUTS = ("context",)
ATTRIBUTES = ("num_heads", "scale", "c2p", "p2c")


def op_type_of(queries: int | None) -> str:
    """The operator that gives so many leading rows; KeyError where there is none."""
    return {rows: op_type for op_type, rows in QUERIES.items()}[queries]
