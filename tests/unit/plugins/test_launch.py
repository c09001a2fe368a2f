"""What the kernel is compiled for, and its grid: plain integers and symbolic shapes alike."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest

from plugins.disentangled_attention.launch import KernelSpec, TileConfig, constants, grid, scalars
from plugins.disentangled_attention.tuning import CAPABILITIES, tile_candidates, tile_for


@dataclass(frozen=True)
class Expression:
    """Stands for a shape that is not known yet; only what TensorRT's expressions have."""

    text: str

    def __add__(self, other: object) -> Expression:
        return Expression(f"({self.text} + {getattr(other, 'text', other)})")

    def __mul__(self, other: object) -> Expression:
        return Expression(f"({self.text} * {getattr(other, 'text', other)})")

    def __floordiv__(self, other: object) -> Expression:
        return Expression(f"({self.text} // {getattr(other, 'text', other)})")


@pytest.mark.parametrize("block", [16, 64, 128])
def test_the_grid_covers_every_row_of_every_head(block: int) -> None:
    tile = TileConfig(block, 16, 16, 4, 1)
    spec = KernelSpec(12, 64, 0.1)
    symbolic = grid(Expression("B"), Expression("S"), spec, tile)
    for batch, length in itertools.product((1, 3), (1, 2, 63, 64, 65, 8192)):
        wanted = math.ceil(length / block) * 12 * batch
        assert grid(batch, length, spec, tile) == wanted
        assert eval(symbolic.text, {"B": batch, "S": length}) == wanted


def test_scalars_keep_their_order() -> None:
    assert scalars(7, key_slots=512, query_slots=1, table_length=9) == (7, 512, 1, 9)


@pytest.mark.parametrize(("size", "padded"), [(1, 16), (16, 16), (20, 32), (64, 64), (80, 128)])
def test_head_sizes_are_padded_to_what_the_matrix_unit_takes(size: int, padded: int) -> None:
    spec = KernelSpec(2, size, 0.1)
    assert spec.padded_head_size == padded
    assert constants(spec, TileConfig(16, 16, 16, 4, 1))["BLOCK_D"] == padded


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "int8"}, "the kernel has float32, float16, bfloat16"),
        ({"mask_dtype": "float32"}, "int32 and bool"),
        ({"num_heads": 0}, "num_heads is 0"),
        ({"head_size": 257}, "head size is 257; the kernel takes 1 to 256"),
        ({"head_size": 0}, "head size is 0"),
        ({"scale": math.nan}, "scale is nan"),
    ],
)
def test_what_the_kernel_does_not_have_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KernelSpec(**{"num_heads": 12, "head_size": 64, "scale": 0.1, **changes})


@pytest.mark.parametrize(
    "tile",
    [
        (48, 64, 64, 4, 1),
        (8, 64, 64, 4, 1),
        (64, 64, 96, 4, 1),
        (64, 64, 64, 3, 1),
        (64, 64, 64, 4, 0),
    ],
)
def test_tiles_that_cannot_be_are_refused(tile: tuple[int, int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        TileConfig(*tile)


def test_every_gpu_has_tiles_for_every_specification() -> None:
    for capability, dtype, size in itertools.product(
        CAPABILITIES, ("float32", "float16", "bfloat16"), (16, 32, 64, 80, 128, 256)
    ):
        spec = KernelSpec(12, size, 0.1, dtype=dtype)
        candidates = tile_candidates(spec, capability)
        assert len(set(candidates)) == len(candidates) > 0
        for length in (1, 33, 128, 8192):
            assert tile_for(spec, capability, length) in candidates


def test_an_old_gpu_is_refused() -> None:
    with pytest.raises(ValueError, match=r"compute capability 7\.5: the kernel needs 8\.0"):
        tile_candidates(KernelSpec(12, 64, 0.1), 75)
