"""The kernel in Triton's interpreter against the oracle: shapes, masks, terms, types, guards."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import pytest
import torch
from support.attention_cases import (
    GUARD,
    UNTOUCHED,
    Case,
    by_oracle,
    interpret,
    make_inputs,
    start_interpreter,
)

from plugins.disentangled_attention.launch import TileConfig

pytest.importorskip("triton")

SMALL = TileConfig(16, 16, 16, 4, 1)
TALL = TileConfig(32, 16, 32, 4, 1)
WIDE = TileConfig(16, 32, 16, 4, 1)
LONG = TileConfig(64, 64, 64, 4, 1)
Run = Callable[[Case], torch.Tensor]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Runs a case, checks what may be touched, and gives the context `(B, S, H*D)` in fp32."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=start_interpreter) as pool:

        def checked(case: Case) -> torch.Tensor:
            buffer, changed = pool.submit(interpret, case).result(timeout=300)
            assert changed == []
            whole = torch.from_numpy(buffer)
            # Exactly: the value is one that every storage type rounds to itself or to a neighbour.
            outside = torch.tensor(UNTOUCHED).to(getattr(torch, case.dtype)).float()
            assert (whole[:GUARD] == outside).all()
            assert (whole[-GUARD:] == outside).all()
            inside = whole[GUARD:-GUARD].view(case.batch, case.rows, -1)
            assert torch.isfinite(inside).all()
            assert (inside != outside).all()
            return inside

        yield checked


def error(case: Case, context: torch.Tensor) -> float:
    """Largest error at valid queries, relative to the largest value there."""
    inputs = make_inputs(case)
    valid = inputs["mask"].bool()[:, : case.rows]
    wanted = by_oracle(case, inputs, torch.float64)[valid]
    return float((context[valid].double() - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize(
    "case",
    [
        Case(1, SMALL),
        Case(2, SMALL, mask="tail"),
        Case(16, SMALL, mask="holes"),
        Case(63, TALL, mask="holes", c2p=False),
        Case(63, WIDE, mask="ragged", p2c=False),
        Case(77, SMALL, mask="ragged", c2p=False, p2c=False),
        Case(77, TALL, mask="empty"),
        Case(50, WIDE, mask="tail", mask_dtype="bool"),
        Case(65, TileConfig(32, 32, 64, 4, 1), size=32, mask="holes"),
    ],
    ids=lambda case: f"{case.length}-{case.mask}-{int(case.c2p)}{int(case.p2c)}",
)
def test_lengths_masks_and_terms(case: Case, run: Run) -> None:
    assert error(case, run(case)) < 1e-5


@pytest.mark.parametrize(
    "case",
    [
        Case(1, SMALL, queries=1),
        Case(63, TALL, mask="ragged", queries=1),
        Case(50, WIDE, mask="tail", c2p=False, mask_dtype="bool", queries=1),
        Case(50, SMALL, mask="holes", p2c=False, queries=1),
        # More than a block of rows, and far tiles behind it.
        Case(110, TileConfig(16, 16, 32, 4, 1), heads=1, span=4, buckets=4, queries=17),
    ],
    ids=lambda case: f"{case.length}-{case.mask}-{int(case.c2p)}{int(case.p2c)}-{case.queries}",
)
def test_the_first_rows_alone(case: Case, run: Run) -> None:
    assert error(case, run(case)) < 1e-5


@pytest.mark.parametrize("size", [1, 20, 32, 64, 80, 128])
def test_head_sizes(size: int, run: Run) -> None:
    case = Case(21, SMALL, size=size, heads=3 if size == 20 else 1, batch=1)
    assert error(case, run(case)) < 1e-5


@pytest.mark.parametrize(
    ("span", "buckets", "max_position", "length"),
    [(12, -1, 512, 45), (4, 4, 40, 90), (5, 5, 9, 50), (3, 3, 3, 30)],
)
def test_slot_tables(span: int, buckets: int, max_position: int, length: int, run: Run) -> None:
    case = Case(
        length, SMALL, batch=1, heads=1, span=span, buckets=buckets, max_position=max_position
    )
    assert error(case, run(case)) < 1e-5


def test_far_tiles_with_whole_ragged_and_gapped_masks(run: Run) -> None:
    case = Case(110, TileConfig(16, 16, 32, 4, 1), heads=1, span=4, buckets=4)
    for mask in ("ragged", "holes"):
        made = replace(case, mask=mask, max_position=9)
        assert error(made, run(made)) < 1e-5


def test_distances_beyond_512_with_the_published_buckets(run: Run) -> None:
    case = Case(650, LONG, batch=1, heads=1, mask="whole", span=256, buckets=256, max_position=512)
    inputs = make_inputs(case)
    assert (len(inputs["slots"]) - 1) // 2 < case.length - 64, "no tile is far"
    assert error(case, run(case)) < 1e-5


@pytest.mark.slow
def test_a_long_sequence(run: Run) -> None:
    tile = TileConfig(128, 128, 256, 8, 1)
    case = Case(2048, tile, size=64, heads=1, batch=1, mask="holes", span=256, buckets=256)
    case = replace(case, max_position=512)
    assert error(case, run(case)) < 1e-5


def test_a_table_that_is_not_monotone_is_exact(run: Run) -> None:
    """Tiles index distances, not slots; an unusual table of buckets has slots going back."""
    case = Case(40, SMALL, span=2, buckets=3, max_position=4, batch=1)
    assert error(case, run(case)) < 1e-5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("tile", [SMALL, TileConfig(32, 32, 32, 4, 1)], ids=["16", "32"])
def test_narrow_types_lose_no_more_than_pytorch(dtype: str, tile: TileConfig, run: Run) -> None:
    case = Case(60, tile, size=32, dtype=dtype, mask="ragged")
    inputs = make_inputs(case)
    valid = inputs["mask"].bool()
    wanted = by_oracle(case, inputs, torch.float64)[valid]
    pytorch = by_oracle(case, inputs, getattr(torch, dtype))[valid].double()
    ours = run(case)[valid].double()
    assert (ours - wanted).abs().max() <= 2 * (pytorch - wanted).abs().max()


def test_fp16_scores_beyond_its_range_do_not_overflow(run: Run) -> None:
    """Sums of products above 65,504 that the scale brings back, and sums in the far regime too."""
    case = Case(60, SMALL, size=64, batch=1, heads=1, dtype="float16", spread=60.0, mask="whole")
    inputs = make_inputs(case)
    query, key = inputs["qkv"][0, :, :64].double(), inputs["qkv"][0, :, 64:128].double()
    assert (query @ key.T).abs().max() > 65504
    assert error(case, run(case)) < 2e-3
