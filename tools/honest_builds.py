"""Builds without a fault, of random configurations in every precision: none may be judged bad.

    python -m tools.honest_builds --configurations 100

Every head and variant of the model comes up, weights have a deviation of 0.02 to 0.15, and each
twenty-fifth model has 6 layers of 384 at 0.15, whose attention is nearly a choice that rounding
turns into another one. Prints how many builds of each precision and deviation were judged bad, and
why; its exit code is 1 where there is one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from exporter.deberta.configuration import DebertaConfig
from exporter.demo import checkpoint_folder
from exporter.model.profile import Range
from exporter.parity.result import ParityResult
from exporter.pipeline.build_artifact import build_and_judge
from exporter.pipeline.config import PRECISIONS, BuildConfig
from tools.random_configurations import random_config, write_random

DEVIATIONS = (0.02, 0.05, 0.1, 0.15)
LARGE_EACH, LARGE = 25, {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6}
LONGEST = 160
"""Above and below the length up to which a graph reads position terms in another way."""


def deviation_of(seed: int) -> float:
    """Deviation of the weights of a configuration."""
    return 0.15 if seed % LARGE_EACH == LARGE_EACH - 1 else DEVIATIONS[seed // 6 % len(DEVIATIONS)]


def honest_builds(seed: int, folder: Path) -> Iterator[tuple[str, ParityResult]]:
    """What the build of a configuration found, by precision; `folder` is empty."""
    fields, task = random_config(seed)
    if seed % LARGE_EACH == LARGE_EACH - 1:
        fields |= {**LARGE, "intermediate_size": 1536, "conv_groups": 1}
        fields = {k: v for k, v in fields.items() if k != "attention_head_size"}
    demo = DebertaConfig.from_folder(checkpoint_folder())
    fields |= {"model_type": "deberta-v2", "vocab_size": demo.vocab_size}
    fields |= {"pooler_hidden_size": fields["hidden_size"]}
    source = folder / "checkpoint"
    source.mkdir()
    write_random(source, fields, task, deviation_of(seed), seed)
    for precision in PRECISIONS:
        _, result = build_and_judge(
            BuildConfig(
                source,
                folder / precision,
                precision=precision,
                targets=("onnx",),
                task=task,
                seq=Range(1, 16, min(LONGEST, fields["max_position_embeddings"])),
            )
        )
        yield precision, result


def main() -> int:
    """Build and count."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--configurations", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="seed of the first one")
    arguments = parser.parse_args()
    built: Counter[tuple[float, str]] = Counter()
    bad: Counter[tuple[float, str]] = Counter()
    for seed in range(arguments.first, arguments.first + arguments.configurations):
        with tempfile.TemporaryDirectory() as name:
            for precision, result in honest_builds(seed, Path(name)):
                built[deviation_of(seed), precision] += 1
                if not result:
                    bad[deviation_of(seed), precision] += 1
                    print(f"{seed} {precision}: {'; '.join(result.failures[:3])}", flush=True)
    print("| deviation | " + " | ".join(PRECISIONS) + " |")
    print("|---|" + "---:|" * len(PRECISIONS))
    for deviation in DEVIATIONS:
        keys = [(deviation, precision) for precision in PRECISIONS]
        cells = (f"{bad[key]} of {built[key]}" for key in keys)
        print(f"| {deviation} | " + " | ".join(cells) + " |")
    return int(bad.total() > 0)


if __name__ == "__main__":
    sys.exit(main())
