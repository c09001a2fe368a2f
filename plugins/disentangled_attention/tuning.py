"""Which tiles the kernel is compiled with, by GPU, storage type, head size, terms and length.

Chosen by what the compiler reports, not by time: no GPU has run it (`docs/attention-kernel.md`).
The largest tiles come first that `ptxas` gives no spills; `benchmarks/kernel_resources.py` records
registers and shared memory of each in `benchmarks/results/kernel_resources.csv`.
"""

from __future__ import annotations

from plugins.disentangled_attention.launch import KernelSpec, TileConfig

CAPABILITIES = (80, 86, 89, 90, 100, 120)

_SMALL = TileConfig(32, 32, 32, 4, 2)
# Half precision, heads of up to 64, by the first capability that takes them.
_NARROW = {
    80: (TileConfig(64, 32, 32, 4, 2), _SMALL),
    86: (TileConfig(64, 16, 64, 4, 2), TileConfig(32, 32, 64, 4, 2)),
    90: (TileConfig(64, 32, 64, 4, 2), TileConfig(128, 32, 64, 8, 2), _SMALL),
    100: (TileConfig(64, 64, 64, 4, 1), TileConfig(64, 32, 64, 4, 2), _SMALL),
    120: (TileConfig(64, 16, 64, 4, 2), TileConfig(32, 32, 64, 4, 2), _SMALL),
}
# The same for heads of up to 32, less what spills: `ptxas` aims at more programs at a time there.
_NARROW_32 = {
    80: (_NARROW[80][0], TileConfig(32, 32, 32, 2, 1)),
    86: (_NARROW[86][0], TileConfig(32, 32, 32, 2, 1)),
    90: _NARROW[90],
    100: (_NARROW[100][0], _SMALL),
    120: _NARROW[120],
}


def tile_candidates(spec: KernelSpec, capability: int) -> tuple[TileConfig, ...]:
    """Configurations worth timing on a GPU, the one to take without timing first.

    `capability` is the compute capability times ten; ValueError below 80.
    """
    if capability < 80:
        raise ValueError(f"compute capability {capability / 10:.1f}: the kernel needs 8.0 or newer")
    if spec.dtype == "float32":
        # Three products of tf32 for each: with heads above 64 no tile does without spills.
        if spec.padded_head_size > 64:
            return (TileConfig(16, 16, 16, 4, 1),)
        tall = spec.padded_head_size <= 32 and capability < 100
        return (TileConfig(32 if tall else 16, 16, 32, 4, 1),)
    if spec.padded_head_size > 128:
        return (TileConfig(16, 16, 16, 4, 1),)
    if spec.padded_head_size > 64:
        tile = TileConfig(32, 32, 32, 4, 1)
        return (tile, TileConfig(64, 32, 64, 8, 2)) if capability == 90 else (tile,)
    table = _NARROW_32 if spec.padded_head_size <= 32 else _NARROW
    return table[max(first for first in table if first <= capability)]


def tile_for(spec: KernelSpec, capability: int, length: int) -> TileConfig:
    """The configuration for sequences of about `length` tokens."""
    candidates = tile_candidates(spec, capability)
    return candidates[0] if length > 32 else min(candidates, key=lambda tile: tile.block_m)
