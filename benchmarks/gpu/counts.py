"""Operations and bytes of disentangled attention: what the mathematics needs, and what ours does.

    python -m benchmarks.gpu.counts        prints the table of docs/attention-kernel.md

A product and its sum count as two operations. Softmax, gathers and projections are not counted.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from plugins.disentangled_attention.launch import TileConfig
from plugins.disentangled_attention.slots import slot_table

# Dense bf16 products and memory of an H100 SXM (NVIDIA's data sheet), per second.
H100_OPERATIONS = 989e12
H100_BYTES = 3.35e12
# Its multiprocessors and their clock, at which 4,096 operations a cycle make that rate.
H100_PROCESSORS, H100_CLOCK = 132, 1.83e9
# Instructions of a warp for a near and for a whole far tile of the kernel for SM 90 (64 x 32, far
# 64 x 64, 4 warps, bf16, heads of 64), counted in ptxas 13.0's code for Triton 3.9: with four warps
# on four schedulers, as many cycles at the least.
ISSUED_NEAR, ISSUED_FAR = 838, 308


@dataclass(frozen=True)
class Shape:
    """One call of the operator: both position terms, every key attended."""

    batch: int
    length: int
    heads: int = 12
    size: int = 64
    span: int = 256
    max_position: int = 512
    item: int = 2
    """Bytes of a number."""

    @property
    def saturation(self) -> int:
        """The distance from which on the slot no longer changes, `P`."""
        return (len(slot_table(self.span, self.span, self.max_position)) - 1) // 2


def active_slots(shape: Shape) -> int:
    """Distinct slots that occur at this length."""
    table = slot_table(shape.span, shape.span, shape.max_position)
    middle = (len(table) - 1) // 2
    reach = min(shape.length - 1, middle)
    return len(set(table[middle - reach : middle + reach + 1].tolist()))


def needed_operations(shape: Shape) -> int:
    """Two products of S x S, and each row and each key with every slot that occurs."""
    content = 4 * shape.length**2 * shape.size
    position = 4 * shape.length * active_slots(shape) * shape.size
    return shape.batch * shape.heads * (content + position)


def needed_bytes(shape: Shape) -> int:
    """Inputs once and the output once: projections, both tables, slots, mask, context."""
    tokens = shape.batch * shape.length
    width = shape.heads * shape.size
    tables = 2 * 2 * shape.span * width
    return (4 * tokens * width + tables) * shape.item + 4 * tokens + 4 * (2 * shape.saturation + 1)


def table_bytes(shape: Shape) -> int:
    """The two `B x H x S x R` tables of precomputed position scores: written once, read once."""
    tables = 2 * shape.batch * shape.heads * shape.length * active_slots(shape)
    return 2 * tables * shape.item


def score_bytes(shape: Shape) -> int:
    """One `B x H x S x S` matrix of scores, written once and read once."""
    return 2 * shape.batch * shape.heads * shape.length**2 * shape.item


def tile_counts(shape: Shape, tile: TileConfig) -> tuple[int, int]:
    """Near and far tiles of one head of one sequence, as the kernel splits them."""
    near = far = 0
    for row in range(0, shape.length, tile.block_m):
        before = max(row - shape.saturation + 1, 0) // tile.far_n * tile.far_n
        before = min(before, shape.length)
        end = min(row + tile.block_m - 1 + shape.saturation, shape.length)
        tiles = -(-(end - before) // tile.block_n)
        after = min(before + tiles * tile.block_n, shape.length)
        near += tiles
        far += before // tile.far_n + -(-(shape.length - after) // tile.far_n)
    return near, far


def executed_operations(shape: Shape, tile: TileConfig) -> int:
    """Operations of the kernel's matrix products, windows and edges included."""
    near, far = tile_counts(shape, tile)
    m, n, d = tile.block_m, tile.block_n, shape.size
    # A row needs n distances out of a window of m + n - 1, in blocks of n; a key m, in blocks of m.
    row_blocks = (m + n - 2) // n + 1
    key_blocks = (n + m - 2) // m + 1
    near_tile = 4 * m * n * d + 2 * m * n * d * (row_blocks + key_blocks)
    far_tile = 4 * m * tile.far_n * d
    return shape.batch * shape.heads * (near * near_tile + far * far_tile)


def issue_seconds(shape: Shape, tile: TileConfig) -> float:
    """Time on an H100 if its schedulers issued an instruction in every cycle: none less."""
    near, far = tile_counts(shape, tile)
    cycles = shape.batch * shape.heads * (near * ISSUED_NEAR + far * ISSUED_FAR)
    return cycles / (H100_PROCESSORS * H100_CLOCK)


def main() -> None:
    """Print the counts at 16,384 tokens as a Markdown table."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    tile = TileConfig(64, 32, 64, 4, 2)
    print(
        "| S | B | slots | Gop needed | Gop done | far tiles | MB in and out | MB of tables | ",
        end="",
    )
    print(
        "MB of scores | us at 989 Top/s, needed | done | us at 3.35 TB/s | us of issue | of 989 |"
    )
    print("|" + "---|" * 14)
    for length in (128, 512, 2048, 8192):
        shape = Shape(16384 // length, length)
        near, far = tile_counts(shape, tile)
        needed, done = needed_operations(shape), executed_operations(shape, tile)
        share = far * tile.far_n / (far * tile.far_n + near * tile.block_n)
        megabytes = [f(shape) / 1e6 for f in (needed_bytes, table_bytes, score_bytes)]
        columns = [
            f"{length:,}", str(shape.batch), str(active_slots(shape)),
            f"{needed / 1e9:.1f}", f"{done / 1e9:.1f}", f"{share:.0%}",
            *(f"{value:,.0f}" for value in megabytes),
            f"{needed / H100_OPERATIONS * 1e6:.0f}", f"{done / H100_OPERATIONS * 1e6:.0f}",
            f"{needed_bytes(shape) / H100_BYTES * 1e6:.0f}",
            f"{issue_seconds(shape, tile) * 1e6:.0f}",
            f"{needed / issue_seconds(shape, tile) / H100_OPERATIONS:.0%}",
        ]  # fmt: skip
        print("| " + " | ".join(columns) + " |")


if __name__ == "__main__":
    main()
