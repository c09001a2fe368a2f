"""What a method gives for one checkpoint, and why it may give nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.fidelity.metrics import Logits


class Unavailable(Exception):  # noqa: N818 - a row that is left out, not a fault of the script
    """A method cannot run here; the message says why."""


@dataclass(frozen=True)
class Result:
    """Answers to the test sentences, and what they cost.

    Attributes:
        logits: float32 `(N, classes)`, in the order of the test sentences.
        bytes: size of the files that hold the graph and its weights.
        seconds: time to make them; see the script's docstring for what it covers.
        versions: packages that made or ran them.
        note: what a reader of the figures has to know.
    """

    logits: Logits
    bytes: int
    seconds: float
    versions: dict[str, str] = field(default_factory=dict)
    note: str = ""


def last_line(text: str) -> str:
    """The last line of a log that is not empty, at most 200 characters."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no message"
