"""Which tiles the kernel is compiled with, by GPU, storage type, head size, terms and length.

Chosen by what the compiler reports, not by time: no GPU has run it (`docs/attention-kernel.md`).
"""

from __future__ import annotations

from plugins.disentangled_attention.launch import KernelSpec, TileConfig

CAPABILITIES = (80, 86, 89, 90, 100, 120)


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
    narrow = TileConfig(32, 32, 4, 1)
    if spec.dtype == "float32" or spec.padded_head_size > 64:
        return (narrow,)
    return (TileConfig(64, 64, 4, 2), narrow)


def tile_for(spec: KernelSpec, capability: int, length: int) -> TileConfig:
    """The configuration for sequences of about `length` tokens."""
    candidates = tile_candidates(spec, capability)
    return candidates[-1] if length <= 32 else candidates[0]
