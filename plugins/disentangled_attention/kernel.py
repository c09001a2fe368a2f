"""The whole of disentangled attention as one Triton kernel; the S x S scores stay on the chip.

A program computes `BLOCK_M` rows of one head of one sequence, over tiles of `BLOCK_N` keys, with an
online softmax in base 2 (Milakov and Gimelshein, arXiv:1805.02867; Dao et al., arXiv:2205.14135).
`docs/attention-kernel.md` counts what it costs and says why it is made this way.

*Far tiles*, where every distance is at or beyond the saturation `P`: all pairs read the same slot
`s`, and `Q.K^T + Q.pk_s + (K.pq_s)^T` is `(Q + pq_s).K^T` plus one number for each row.

*Near tiles*: the `BLOCK_M + BLOCK_N - 1` distances of a tile are a window of the slot table. The
window's embeddings are multiplied inside the tile, and pair `(r, c)` reads column
`t = r - c + BLOCK_N - 1` of its row (content to position) or row `t` of its column (position to
content). A row needs `BLOCK_N` consecutive columns, one of each residue modulo `BLOCK_N`, so the
products of the window's blocks fold into one tile before it is gathered. Distances index the
window, not slots, so that any slot table is exact, monotone or not.

Everything is int64 where a batch's or a head's offset may pass 2^31 elements.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Below every score that a narrow type can produce; finite, so that a row without keys has no NaN.
LOWEST: tl.constexpr = tl.constexpr(-3.0e38)


@triton.jit
def _window_rows(
    table, slots, first_distance, saturation, dims, D: tl.constexpr, BLOCK: tl.constexpr
):
    """Embeddings `(BLOCK, BLOCK_D)` of the distances `first_distance ...`."""
    distance = first_distance + tl.arange(0, BLOCK)
    place = tl.minimum(tl.maximum(distance, -saturation), saturation) + saturation
    slot = tl.load(slots + place)
    return tl.load(
        table + slot[:, None] * D + dims[None, :],
        mask=tl.broadcast_to(dims[None, :] < D, (BLOCK, dims.shape[0])),
        other=0.0,
    )


@triton.jit
def _shear_rows(folded, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """`out[r, c] = folded[r, (r - c + BLOCK_N - 1) mod BLOCK_N]`, `(BLOCK_M, BLOCK_N)`."""
    row = tl.arange(0, BLOCK_M)[:, None]
    column = tl.arange(0, BLOCK_N)[None, :]
    index = row * BLOCK_N + ((row - column + (BLOCK_N - 1)) & (BLOCK_N - 1))
    flat = tl.reshape(folded, (BLOCK_M * BLOCK_N,))
    return tl.reshape(
        tl.gather(flat, tl.reshape(index, (BLOCK_M * BLOCK_N,)), 0), (BLOCK_M, BLOCK_N)
    )


@triton.jit
def _shear_columns(folded, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """`out[r, c] = folded[(r - c + BLOCK_N - 1) mod BLOCK_M, c]`, `(BLOCK_M, BLOCK_N)`."""
    row = tl.arange(0, BLOCK_M)[:, None]
    column = tl.arange(0, BLOCK_N)[None, :]
    index = column + BLOCK_N * ((row - column + (BLOCK_N - 1)) & (BLOCK_M - 1))
    flat = tl.reshape(folded, (BLOCK_M * BLOCK_N,))
    return tl.reshape(
        tl.gather(flat, tl.reshape(index, (BLOCK_M * BLOCK_N,)), 0), (BLOCK_M, BLOCK_N)
    )


@triton.jit
def _content_to_position(
    query, pos_key, slots, distance, saturation, dims,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`q_r . pos_key[slot(r - c)]`, fp32 `(BLOCK_M, BLOCK_N)`; `distance` is that of `t = 0`."""
    row = tl.arange(0, BLOCK_M)[:, None]
    column = tl.arange(0, BLOCK_N)[None, :]
    folded = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for block in tl.static_range((BLOCK_M + 2 * BLOCK_N - 1) // BLOCK_N):
        if block * BLOCK_N < BLOCK_M + BLOCK_N - 1:
            start = block * BLOCK_N
            window = _window_rows(pos_key, slots, distance + start, saturation, dims, D, BLOCK_N)
            product = tl.dot(query, tl.trans(window), input_precision=PRECISION)
            past = start + column - row
            folded = tl.where((past >= 0) & (past < BLOCK_N), product, folded)
    return _shear_rows(folded, BLOCK_M, BLOCK_N)


@triton.jit
def _position_to_content(
    key_t, pos_query, slots, distance, saturation, dims,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`k_c . pos_query[slot(r - c)]`, fp32 `(BLOCK_M, BLOCK_N)`; `key_t` `(BLOCK_D, BLOCK_N)`."""
    row = tl.arange(0, BLOCK_M)[:, None]
    column = tl.arange(0, BLOCK_N)[None, :]
    folded = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for block in tl.static_range((BLOCK_N + 2 * BLOCK_M - 1) // BLOCK_M):
        if block * BLOCK_M < BLOCK_M + BLOCK_N - 1:
            start = block * BLOCK_M
            window = _window_rows(pos_query, slots, distance + start, saturation, dims, D, BLOCK_M)
            product = tl.dot(window, key_t, input_precision=PRECISION)
            past = start + row - (BLOCK_N - 1 - column)
            folded = tl.where((past >= 0) & (past < BLOCK_M), product, folded)
    return _shear_columns(folded, BLOCK_M, BLOCK_N)


@triton.jit
def _attend(
    context, highest, total, query, row_bias, qkv, mask, pos_key, pos_query, slots,
    first_row, begin, end, keys, saturation, factor, dims,
    H: tl.constexpr, D: tl.constexpr, C2P: tl.constexpr, P2C: tl.constexpr, NEAR: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Keys `begin ... end` into the running `context`, `highest` and `total` of the rows.

    `query` is `(BLOCK_M, BLOCK_D)`; far tiles take it with `pos_query` added, and `row_bias`.
    `factor` is what turns a product of `query` into a score in base 2.
    """
    PITCH: tl.constexpr = 3 * H * D
    column = tl.arange(0, BLOCK_N)
    for start in range(begin, end, BLOCK_N):
        inside = start + column < keys
        allowed = tl.load(mask + start + column, mask=inside, other=0) != 0
        key_rows = qkv + tl.cast(start, tl.int64) * PITCH + H * D
        offset = column[:, None] * PITCH + dims[None, :]
        held = inside[:, None] & (dims < D)[None, :]
        key_t = tl.trans(tl.load(key_rows + offset, mask=held, other=0.0))
        scores = tl.dot(query, key_t, input_precision=PRECISION)
        if NEAR:
            distance = first_row - start - (BLOCK_N - 1)
            if C2P:
                scores += _content_to_position(
                    query, pos_key, slots, distance, saturation, dims,
                    D, BLOCK_M, BLOCK_N, PRECISION,
                )  # fmt: skip
            if P2C:
                scores += _position_to_content(
                    key_t, pos_query, slots, distance, saturation, dims,
                    D, BLOCK_M, BLOCK_N, PRECISION,
                )  # fmt: skip
            scores = scores * factor
        else:
            scores = scores * factor + row_bias[:, None]
        scores = tl.where(allowed[None, :], scores, float("-inf"))
        risen = tl.maximum(highest, tl.max(scores, 1))
        weights = tl.exp2(scores - risen[:, None])
        fade = tl.exp2(highest - risen)
        total = total * fade + tl.sum(weights, 1)
        value = tl.load(key_rows + H * D + offset, mask=held, other=0.0)
        context = context * fade[:, None]
        context = tl.dot(weights.to(value.dtype), value, context, input_precision=PRECISION)
        highest = risen
    return context, highest, total


@triton.jit
def _far_query(
    query, pos_key, pos_query, slots, place, dims, factor,
    D: tl.constexpr, C2P: tl.constexpr, P2C: tl.constexpr,
):  # fmt: skip
    """Query with the saturated `pos_query` added, halved, and the row's content-to-position."""
    slot = tl.load(slots + place)
    wide = query.to(tl.float32)
    row_bias = tl.zeros((query.shape[0],), tl.float32)
    if C2P:
        key = tl.load(pos_key + slot * D + dims, mask=dims < D, other=0.0).to(tl.float32)
        row_bias = tl.sum(wide * key[None, :], 1) * factor
    if P2C:
        position = tl.load(pos_query + slot * D + dims, mask=dims < D, other=0.0)
        wide += position.to(tl.float32)[None, :]
    # Halved, since a sum of two finite fp16 numbers may be infinite and half of it never is.
    return (wide * 0.5).to(query.dtype), row_bias


@triton.jit
def _last_key(mask, keys, BLOCK: tl.constexpr):
    """One past the last key that may be attended; 0 when there is none."""
    last = tl.zeros((BLOCK,), tl.int32)
    column = tl.arange(0, BLOCK)
    for start in range(0, keys, BLOCK):
        allowed = tl.load(mask + start + column, mask=start + column < keys, other=0) != 0
        last = tl.maximum(last, tl.where(allowed, start + column + 1, 0))
    return tl.max(last, 0)


@triton.jit
def disentangled_attention_kernel(
    qkv, pos_key, pos_query, slots, mask,
    length, key_slots, query_slots, table_length,
    context,
    H: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, SCALE: tl.constexpr,
    C2P: tl.constexpr, P2C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """`contract.py`'s operator: inputs, int32 scalars, output, in the order TensorRT passes them.

    One-dimensional grid of `cdiv(S, BLOCK_M) * H * B` programs. `length` is `S`; `key_slots` and
    `query_slots` are the second dimensions of `pos_key` and `pos_query`; `table_length` is
    `2 * P + 1`. `mask` points to int32, or to bytes for a bool tensor. `SCALE` is the contract's.
    """
    row_blocks = tl.cdiv(length, BLOCK_M)
    program = tl.program_id(0)
    first_row = (program % row_blocks) * BLOCK_M
    head = (program // row_blocks) % H
    batch = (program // row_blocks // H).to(tl.int64)
    PITCH: tl.constexpr = 3 * H * D
    saturation = (table_length - 1) // 2

    qkv += batch * length * PITCH + head * D
    mask += batch * length
    context += batch * length * (H * D) + head * D
    pos_key += head.to(tl.int64) * key_slots * D
    pos_query += head.to(tl.int64) * query_slots * D

    row = tl.arange(0, BLOCK_M)
    dims = tl.arange(0, BLOCK_D)
    held = (first_row + row < length)[:, None] & (dims < D)[None, :]
    query_rows = qkv + first_row.to(tl.int64) * PITCH
    query = tl.load(query_rows + row[:, None] * PITCH + dims[None, :], mask=held, other=0.0)

    highest = tl.full((BLOCK_M,), LOWEST, tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    # exp2(x * log2(e)) is exp(x).
    factor = SCALE * 1.4426950408889634

    keys = _last_key(mask, length, 128)
    # Padded rows past the last key are nobody's: no tile, and a result of zero.
    keys = tl.where(first_row < keys, keys, 0)
    tiles = tl.cdiv(keys, BLOCK_N)
    if C2P or P2C:
        # Tiles whose smallest distance is at least P, and those whose largest is at most -P.
        before = tl.minimum(tl.maximum(first_row - saturation + 1, 0) // BLOCK_N, tiles)
        after = tl.minimum(tl.cdiv(first_row + BLOCK_M - 1 + saturation, BLOCK_N), tiles)
        for side in tl.static_range(2):
            begin = after * BLOCK_N if side else 0
            end = tiles * BLOCK_N if side else before * BLOCK_N
            place = 0 if side else table_length - 1
            far_query, row_bias = _far_query(
                query, pos_key, pos_query, slots, place, dims, factor, D, C2P, P2C
            )
            acc, highest, total = _attend(
                acc, highest, total, far_query, row_bias, qkv, mask, pos_key, pos_query, slots,
                first_row, begin, end, keys, saturation, 2.0 * factor, dims,
                H, D, C2P, P2C, False, BLOCK_M, BLOCK_N, PRECISION,
            )  # fmt: skip
    else:
        before = 0
        after = tiles
    no_bias = tl.zeros((BLOCK_M,), tl.float32)
    acc, highest, total = _attend(
        acc, highest, total, query, no_bias, qkv, mask, pos_key, pos_query, slots,
        first_row, before * BLOCK_N, after * BLOCK_N, keys, saturation, factor, dims,
        H, D, C2P, P2C, C2P or P2C, BLOCK_M, BLOCK_N, PRECISION,
    )  # fmt: skip

    result = acc / tl.where(total > 0, total, 1.0)[:, None]
    context_rows = context + first_row.to(tl.int64) * (H * D)
    tl.store(
        context_rows + row[:, None] * (H * D) + dims[None, :],
        result.to(context.dtype.element_ty),
        mask=held,
    )
