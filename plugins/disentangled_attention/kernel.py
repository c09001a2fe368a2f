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
def _load(pointers, held, WHOLE: tl.constexpr):
    """What `pointers` point to, zero where it is not `held`; `WHOLE` says that all of it is."""
    if WHOLE:
        return tl.load(pointers)
    else:  # noqa: RET505  # both returns are one choice of Triton's compiler
        return tl.load(pointers, mask=held, other=0.0)


@triton.jit
def _window_rows(table, slots, first_place, last_place, dims, D: tl.constexpr, BLOCK: tl.constexpr):
    """Embeddings `(BLOCK, BLOCK_D)` of the slot table's places from `first_place` on, clipped."""
    place = first_place + tl.arange(0, BLOCK)
    place = tl.minimum(tl.maximum(place, 0), last_place)
    slot = tl.load(slots + place)
    held = (slot >= 0)[:, None] & (dims < D)[None, :]
    return _load(table + slot[:, None] * D + dims[None, :], held, dims.shape[0] == D)


@triton.jit
def _folded_products(
    rows, table, slots, first_place, last_place, dims, need,
    D: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`rows` times the window's embeddings, fp32 `(ROWS, WIDTH)`: of each row the `WIDTH` distances
    from `need` on, where distance `t` is in column `t mod WIDTH`.
    """
    column = tl.arange(0, WIDTH)[None, :]
    window = _window_rows(table, slots, first_place, last_place, dims, D, WIDTH)
    folded = tl.dot(rows, tl.trans(window), input_precision=PRECISION)
    for block in tl.static_range(1, (ROWS + WIDTH - 2) // WIDTH + 1):
        start = first_place + block * WIDTH
        window = _window_rows(table, slots, start, last_place, dims, D, WIDTH)
        product = tl.dot(rows, tl.trans(window), input_precision=PRECISION)
        # A later block replaces the distances that the row is past in the one before.
        folded = tl.where(column + (block - 1) * WIDTH < need[:, None], product, folded)
    return folded


@triton.jit
def _spread(folded, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """`folded` as one dimension, in an order that spares the banks of shared memory.

    The lanes of a matrix unit's result hold eight rows of four pairs of columns: their bits come
    last, so that 32 lanes meet 32 banks when the array is written, and when it is read.
    """
    parts = tl.reshape(folded, (ROWS // 8, 8, WIDTH // 2, 2))
    return tl.reshape(tl.permute(parts, (0, 3, 2, 1)), (ROWS * WIDTH,))


@triton.jit
def _gathered(
    folded, line, half, odd, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WIDTH: tl.constexpr
):
    """Of each pair, the element of `folded` in its `line`, at distance `2 * half + odd`."""
    place = (line >> 3) * (8 * WIDTH) + odd * (4 * WIDTH)
    place += (half & (WIDTH // 2 - 1)) * 8 + (line & 7)
    SIZE: tl.constexpr = BLOCK_M * BLOCK_N
    return tl.reshape(
        tl.gather(_spread(folded, SIZE // WIDTH, WIDTH), tl.reshape(place, (SIZE,)), 0),
        (BLOCK_M, BLOCK_N),
    )


@triton.jit
def _attend(
    context, highest, total, query, row_bias, qkv, mask, pos_key, pos_query, slots,
    first_row, begin, end, keys, saturation, factor, dims,
    H: tl.constexpr, D: tl.constexpr, C2P: tl.constexpr, P2C: tl.constexpr,
    NEAR: tl.constexpr, MASKED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Keys `begin ... end` into the running `context`, `highest` and `total` of the rows.

    `query` is `(BLOCK_M, BLOCK_D)`; far tiles take it with `pos_query` added, and `row_bias`.
    `factor` is what turns a product of `query` into a score in base 2.
    """
    PITCH: tl.constexpr = 3 * H * D
    row = tl.arange(0, BLOCK_M)
    column = tl.arange(0, BLOCK_N)
    for start in tl.range(begin, end, BLOCK_N, num_stages=1 if NEAR else None):
        key_rows = qkv + tl.cast(start, tl.int64) * PITCH + H * D
        offset = column[:, None] * PITCH + dims[None, :]
        inside = start + column < keys if MASKED else column >= 0
        held = inside[:, None] & (dims < D)[None, :]
        whole: tl.constexpr = not MASKED and dims.shape[0] == D
        key = _load(key_rows + offset, held, whole)
        bias = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        if MASKED:
            # What may not be attended starts at minus infinity and stays there.
            allowed = tl.load(mask + start + column, mask=inside, other=0) != 0
            bias += tl.where(allowed, 0.0, float("-inf"))[None, :]
        if NEAR:
            # Pair (r, c) is at the window's distance t = r - c + BLOCK_N - 1: in two parts, of
            # which the compiler sees that a thread's pairs differ by constants.
            # `start >> 30` is 0; without it the indices are kept in registers across the loop.
            place = first_row - start - (BLOCK_N - 1) + saturation
            ahead = row[:, None] - (column & 1)[None, :] + (start >> 30) + (BLOCK_N - 1)
            half = (ahead >> 1) - (column >> 1)[None, :]
            if P2C:
                folded = _folded_products(
                    key, pos_query, slots, place, 2 * saturation, dims, BLOCK_N - 1 - column,
                    D, BLOCK_N, BLOCK_M, PRECISION,
                )  # fmt: skip
                line = tl.broadcast_to(column[None, :], (BLOCK_M, BLOCK_N))
                bias += _gathered(folded, line, half, ahead & 1, BLOCK_M, BLOCK_N, BLOCK_M)
            if C2P:
                folded = _folded_products(
                    query, pos_key, slots, place, 2 * saturation, dims, row,
                    D, BLOCK_M, BLOCK_N, PRECISION,
                )  # fmt: skip
                bias += _gathered(folded, row[:, None], half, ahead & 1, BLOCK_M, BLOCK_N, BLOCK_N)
        scores = tl.dot(query, tl.trans(key), bias, input_precision=PRECISION)
        risen = tl.maximum(highest, tl.max(scores, 1) * factor + row_bias)
        weights = tl.exp2(scores * factor + (row_bias - risen)[:, None])
        fade = tl.exp2(highest - risen)
        total = total * fade + tl.sum(weights, 1)
        value = _load(key_rows + H * D + offset, held, whole)
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
    wide = query.to(tl.float32)
    row_bias = tl.zeros((query.shape[0],), tl.float32)
    slot = tl.load(slots + place) if C2P or P2C else 0
    if C2P:
        key = tl.load(pos_key + slot * D + dims, mask=dims < D, other=0.0).to(tl.float32)
        row_bias = tl.sum(wide * key[None, :], 1) * factor
    if P2C:
        position = tl.load(pos_query + slot * D + dims, mask=dims < D, other=0.0)
        wide += position.to(tl.float32)[None, :]
    # Halved, since a sum of two finite fp16 numbers may be infinite and half of it never is.
    return (wide * 0.5).to(query.dtype), row_bias


@triton.jit
def _key_range(mask, length, BLOCK: tl.constexpr):
    """How many leading keys may all be attended, and one past the last that may (0 without any)."""
    column = tl.arange(0, BLOCK)
    gap = tl.full((BLOCK,), 0x7FFFFFFF, tl.int32)
    last = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, length, BLOCK):
        key = start + column
        allowed = tl.load(mask + key, mask=key < length, other=0) != 0
        gap = tl.minimum(gap, tl.where(allowed, 0x7FFFFFFF, key))
        last = tl.maximum(last, tl.where(allowed, key + 1, 0))
    return tl.minimum(tl.min(gap, 0), length), tl.max(last, 0)


# One kernel for all shapes, as TensorRT's plugin has it: lengths are not compiled in.
@triton.jit(do_not_specialize=("length", "key_slots", "query_slots", "table_length"))
def disentangled_attention_kernel(
    qkv, pos_key, pos_query, slots, mask,
    length, key_slots, query_slots, table_length,
    context,
    H: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, SCALE: tl.constexpr,
    C2P: tl.constexpr, P2C: tl.constexpr, QUERIES: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, FAR_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`contract.py`'s operator: inputs, int32 scalars, output, in the order TensorRT passes them.

    One-dimensional grid of `cdiv(rows, BLOCK_M) * H * B` programs. `length` is `S`; the first
    `QUERIES` rows are computed, or all for 0, and are all that `context` has; `key_slots` and
    `query_slots` are the second dimensions of `pos_key` and `pos_query`; `table_length` is
    `2 * P + 1`. `mask` points to int32, or to bytes for a bool tensor. `SCALE` is the contract's.
    """
    # As an argument of the launch it costs registers, and a tile of SM 120 spills.
    rows = tl.minimum(length, QUERIES) if QUERIES else length
    row_blocks = tl.cdiv(rows, BLOCK_M)
    program = tl.program_id(0)
    first_row = (program % row_blocks) * BLOCK_M
    head = (program // row_blocks) % H
    batch = (program // row_blocks // H).to(tl.int64)
    PITCH: tl.constexpr = 3 * H * D
    saturation = (table_length - 1) // 2

    qkv += batch * length * PITCH + head * D
    mask += batch * length
    context += batch * rows * (H * D) + head * D
    pos_key += head.to(tl.int64) * key_slots * D
    pos_query += head.to(tl.int64) * query_slots * D

    row = tl.arange(0, BLOCK_M)
    dims = tl.arange(0, BLOCK_D)
    held = (first_row + row < rows)[:, None] & (dims < D)[None, :]
    query_rows = qkv + first_row.to(tl.int64) * PITCH
    query = tl.load(query_rows + row[:, None] * PITCH + dims[None, :], mask=held, other=0.0)

    highest = tl.full((BLOCK_M,), LOWEST, tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    # exp2(x * log2(e)) is exp(x).
    factor = SCALE * 1.4426950408889634

    solid, keys = _key_range(mask, length, 1024)
    # Padded rows past the last key are nobody's: no tile, and a result of zero.
    keys = tl.where(first_row < keys, keys, 0)
    no_bias = tl.zeros((BLOCK_M,), tl.float32)
    if C2P or P2C:
        # Keys whose distance to every row is at least P, and those where it is at most -P, are far;
        # the near ones between them begin where a far tile ends, and end where one begins or later.
        before = tl.minimum(tl.maximum(first_row - saturation + 1, 0) // FAR_N * FAR_N, keys)
        after = tl.minimum(first_row + BLOCK_M - 1 + saturation, keys)
        after = before + tl.cdiv(after - before, BLOCK_N) * BLOCK_N
    else:
        before = keys
        after = keys
    for side in tl.static_range(2 if C2P or P2C else 1):
        far_query, row_bias = _far_query(
            query, pos_key, pos_query, slots, 0 if side else table_length - 1, dims, factor,
            D, C2P, P2C,
        )  # fmt: skip
        begin = after if side else 0
        end = keys if side else before
        # Whole tiles without a gap in the mask are spared it.
        middle = begin + tl.maximum(tl.minimum(end, solid) - begin, 0) // FAR_N * FAR_N
        acc, highest, total = _attend(
            acc, highest, total, far_query, row_bias, qkv, mask, pos_key, pos_query, slots,
            first_row, begin, middle, keys, saturation, 2.0 * factor, dims,
            H, D, C2P, P2C, False, False, BLOCK_M, FAR_N, PRECISION,
        )  # fmt: skip
        acc, highest, total = _attend(
            acc, highest, total, far_query, row_bias, qkv, mask, pos_key, pos_query, slots,
            first_row, middle, end, keys, saturation, 2.0 * factor, dims,
            H, D, C2P, P2C, False, True, BLOCK_M, FAR_N, PRECISION,
        )  # fmt: skip
    # The widest loop comes last: nothing of the others need outlive it in registers.
    if C2P or P2C:
        acc, highest, total = _attend(
            acc, highest, total, query, no_bias, qkv, mask, pos_key, pos_query, slots,
            first_row, before, tl.minimum(after, keys), keys, saturation, factor, dims,
            H, D, C2P, P2C, True, True, BLOCK_M, BLOCK_N, PRECISION,
        )  # fmt: skip

    result = acc / tl.where(total > 0, total, 1.0)[:, None]
    context_rows = context + first_row.to(tl.int64) * (H * D)
    tl.store(
        context_rows + row[:, None] * (H * D) + dims[None, :],
        result.to(context.dtype.element_ty),
        mask=held,
    )
