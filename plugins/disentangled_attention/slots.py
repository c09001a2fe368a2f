"""The slot table: which relative embedding a distance reads.

Must match `make_log_bucket_position` and the clamps of `disentangled_attention_bias` in
`modeling_deberta_v2.py` of transformers, for every distance. Microsoft's `da_utils.py` differs at
one place: at distances of -512 and beyond (v3) it gives slot 1 where transformers gives slot 0.
"""

from __future__ import annotations

import torch

# No sequence is longer, so a table that reaches this far is exact even if it has not saturated:
# published models do at 512, but an odd handful of buckets can take a hundred thousand.
MAX_DISTANCE = 1 << 17


def slot_table(span: int, buckets: int, max_position: int) -> torch.Tensor:
    """Slots of the distances `-P .. P`, where `P` is the first that no longer changes them.

    Args:
        span: half the number of slots: `position_buckets`, or `max_relative_positions` without.
        buckets: `position_buckets`, to either side; 0 or less when every distance has its own slot.
        max_position: `max_relative_positions`, the distance that reaches the last bucket; read only
            with buckets.

    Returns int32 `(2 * P + 1,)` on the CPU: exact when the distance is clipped to `[-P, P]`, for
    every sequence of up to 131,072 tokens.
    """
    reach = max(2 * span, max_position, 2)
    # One bucket to either side of zero: the logarithm has no steps, and the clamps are not met.
    ends = (0, 2 * span - 1) if buckets <= 0 or buckets // 2 > 1 else (span - 1, span + 1)
    while True:
        distance = torch.arange(-reach, reach + 1, device="cpu")
        relative = _bucket_of_distance(distance, buckets, max_position) if buckets > 0 else distance
        slots = torch.clamp(relative + span, 0, 2 * span - 1).to(torch.int32)
        if (int(slots[0]), int(slots[-1])) == ends or reach >= MAX_DISTANCE:
            break
        reach *= 2
    changed = (slots[:reach] != slots[0]).nonzero(), (slots[reach:] != slots[-1]).nonzero()
    below = reach - int(changed[0].min()) if len(changed[0]) else 0
    above = int(changed[1].max()) if len(changed[1]) else 0
    saturation = max(below, above) + 1
    return slots[reach - saturation : reach + saturation + 1].clone()


def _bucket_of_distance(distance: torch.Tensor, buckets: int, max_position: int) -> torch.Tensor:
    """Signed bucket of each distance, int64: itself up to `buckets // 2`, logarithmic beyond."""
    mid = buckets // 2
    near = (distance < mid) & (distance > -mid)
    # The float32 rounding of the reference decides which side of a ceil a distance falls on.
    magnitude = torch.where(near, torch.full_like(distance, mid - 1), distance.abs())
    largest = torch.tensor((max_position - 1) / mid, device=distance.device)
    log_ratio = torch.log(magnitude / mid) / torch.log(largest)
    log_bucket = torch.ceil(log_ratio * (mid - 1)) + mid
    signed = log_bucket * torch.sign(distance)
    return torch.where(magnitude <= mid, distance.type_as(signed), signed).to(torch.int64)
