"""What `tools.hub_clients` takes for a difference."""

from __future__ import annotations

from typing import Any

import numpy as np

from tools.hub_clients.__main__ import differences

WANTED = [{"ids": [1, 5, 2], "outputs": {"logits": np.array([[4.0, -2.0]], np.float32)}}]


def seen(**changes: Any) -> list[float | str]:
    return list(
        differences([{"ids": [1, 5, 2], "outputs": {"logits": [[4, -2]]}} | changes], WANTED)
    )


def test_what_differs_is_seen() -> None:
    assert seen() == [0.0]
    assert seen(outputs={"logits": [[4, -1]]}) == [0.25]
    assert "other ids" in str(seen(ids=[1, 6, 2])[0])
    assert "is (1, 1) instead of (1, 2)" in str(seen(outputs={"logits": [[4]]})[0])
