"""Which tiles the kernel is compiled with, by GPU, storage type, head size, terms and length.

Chosen by what the compiler reports, not by time: no GPU has run it (`docs/attention-kernel.md`).
The largest tiles come first that `ptxas` gives no spills; `benchmarks/kernel_resources.py` records
registers and shared memory of each in `benchmarks/results/kernel_resources.csv`.
"""

from __future__ import annotations

from plugins.disentangled_attention.launch import KernelSpec, TileConfig

CAPABILITIES = (80, 86, 89, 90, 100, 120)

_SMALL = TileConfig(32, 32, 32, 4, 2)
# Half precision, heads of up to 64, by the first capability that takes them; the last is for short
# sequences.
_NARROW = {
    80: (TileConfig(64, 32, 32, 4, 2), _SMALL),
    86: (TileConfig(64, 16, 64, 4, 2), TileConfig(32, 32, 64, 4, 2), _SMALL),
    90: (TileConfig(64, 32, 64, 4, 2), TileConfig(128, 32, 64, 8, 2), _SMALL),
    100: (TileConfig(64, 64, 64, 4, 1), TileConfig(64, 32, 64, 4, 2), _SMALL),
    120: (TileConfig(64, 16, 64, 4, 2), TileConfig(32, 32, 64, 4, 2), _SMALL),
}


def tile_candidates(spec: KernelSpec, capability: int) -> tuple[TileConfig, ...]:
    """Configurations worth timing on a GPU, the one to take without timing first.

    Args:
        spec: what the kernel is compiled for.
        capability: compute capability times ten, such as 90.

    Raises:
        ValueError: a GPU older than compute capability 8.0.
    """
    if capability < 80:
        raise ValueError(f"compute capability {capability / 10:.1f}: the kernel needs 8.0 or newer")
    if spec.dtype == "float32":
        # Three products of tf32 for each: with heads above 64 no tile does without spills.
        return (TileConfig(16, 16, 32 if spec.padded_head_size <= 64 else 16, 4, 1),)
    if spec.padded_head_size > 128:
        return (TileConfig(16, 16, 16, 4, 1),)
    if spec.padded_head_size > 64:
        tile = TileConfig(32, 32, 32, 4, 1)
        return (tile, TileConfig(64, 32, 64, 8, 2)) if capability == 90 else (tile,)
    return _NARROW[max(first for first in _NARROW if first <= capability)]


def tile_for(spec: KernelSpec, capability: int, length: int) -> TileConfig:
    """The configuration for sequences of about `length` tokens."""
    candidates = tile_candidates(spec, capability)
    return candidates[-1] if length <= 32 else candidates[0]
