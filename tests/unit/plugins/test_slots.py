"""The slot table against `transformers`, distance by distance."""

from __future__ import annotations

import pytest
import torch
from transformers.models.deberta_v2.modeling_deberta_v2 import (
    build_relative_position,
    make_log_bucket_position,
)

from plugins.disentangled_attention.slots import slot_table

CASES = [
    (256, 256, 512),  # DeBERTa-v3 and v2
    (512, -1, 512),
    (20, 0, 20),
    *[(buckets, buckets, 20) for buckets in (2, 3, 4, 5, 7, 16, 31, 37)],
    *[(buckets, buckets, 512) for buckets in (2, 4, 7, 33, 128, 255, 511)],
    (1, -1, 1),
]


@pytest.mark.parametrize(("span", "buckets", "max_position"), CASES)
@pytest.mark.parametrize("length", [1, 2, 77, 600, 1500])
def test_same_slots_as_transformers(
    span: int, buckets: int, max_position: int, length: int
) -> None:
    states = torch.zeros(1, length, 1)
    relative = build_relative_position(states, states, buckets, max_position)[0]
    content_to_position = torch.clamp(relative + span, 0, 2 * span - 1)
    position_to_content = torch.clamp(-relative + span, 0, 2 * span - 1).T

    table = slot_table(span, buckets, max_position)
    saturation = len(table) // 2
    position = torch.arange(length)
    distance = (position[:, None] - position[None, :]).clamp(-saturation, saturation)
    ours = table[distance + saturation].long()
    assert torch.equal(ours, content_to_position)
    assert torch.equal(ours, position_to_content)


def test_the_table_is_as_short_as_it_can_be() -> None:
    table = slot_table(256, 256, 512)
    assert table.dtype == torch.int32
    assert len(table) == 2 * 512 + 1
    assert table[0] != table[1]


def test_distances_beyond_512_differ_from_microsoft_at_one_end() -> None:
    """Microsoft's code stops at slot 1 for v3, transformers at slot 0: transformers is followed."""
    table = slot_table(256, 256, 512)
    assert (int(table[0]), int(table[1]), int(table[-1])) == (0, 1, 511)


def test_a_table_that_hardly_saturates_stays_exact_for_long_sequences() -> None:
    table = slot_table(5, 5, 2048)
    distance = torch.tensor([-100_000, -5000, 5000, 100_000])
    saturation = len(table) // 2
    relative = make_log_bucket_position(distance, 5, 2048).long()
    clipped = distance.clamp(-saturation, saturation)
    assert torch.equal(table[clipped + saturation].long(), torch.clamp(relative + 5, 0, 9))


@pytest.mark.parametrize(("span", "buckets", "max_position"), CASES)
def test_slots_never_fall_with_the_distance(span: int, buckets: int, max_position: int) -> None:
    """The ONNX body takes the ends of a range of distances for the ends of their slots."""
    table = slot_table(span, buckets, max_position)
    assert bool((table.diff() >= 0).all())


def test_slots_never_fall_whatever_the_buckets() -> None:
    for buckets in range(2, 80):
        for max_position in range(buckets // 2 + 2, 200, 7):
            if buckets < 2 * max_position - 1:
                table = slot_table(buckets, buckets, max_position)
                assert bool((table.diff() >= 0).all()), (buckets, max_position)
