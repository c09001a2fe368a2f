"""What counts as a failure of a stage, by its figures."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.parity.stagewise import (
    CHANNEL_SHARE,
    EXACT_RMS,
    LEAST_TOKENS,
    OFF_SHARE,
    ROUNDED_RMS,
    StageFigures,
)


@pytest.mark.parametrize(
    ("fields", "failure"),
    [
        ({"rms": EXACT_RMS}, ""),
        ({"rms": 1.1 * EXACT_RMS}, "differs from its plan"),
        ({"rms": float("nan")}, "differs from its plan"),
        ({"rms": 1.1 * EXACT_RMS, "step": "fp16"}, ""),
        ({"rms": 1.1 * ROUNDED_RMS["fp16"], "step": "fp16"}, "differs from its plan"),
        ({"off": 1.1 * OFF_SHARE, "step": "fp16"}, "of its values are not those"),
        ({"off": 1.1 * OFF_SHARE, "step": "fp16", "tokens": LEAST_TOKENS - 1}, ""),
        ({"off": 1.1 * OFF_SHARE, "step": ""}, ""),  # its rms is limited as if nothing were off
        ({"channel": 1.1 * CHANNEL_SHARE, "step": "int8"}, "a channel is not that"),
        # One flip in a pooled vector moves all logits of a row a little.
        ({"off": 0.5, "channel": 0.5, "step": "fp16", "summed": True}, ""),
        ({"rms": 1.1 * ROUNDED_RMS["fp16"], "step": "fp16", "summed": True}, "differs from"),
        ({"missing": "gone"}, "gone"),
    ],
)
def test_what_fails_a_stage(fields: dict[str, Any], failure: str) -> None:
    found = StageFigures("a stage", **{"tokens": LEAST_TOKENS, **fields}).failure
    assert (failure in found) if failure else found == ""
