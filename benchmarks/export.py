"""Export time and peak memory: ours beside the stock `torch.onnx.export` of the transformers model.

Each export runs in a process of its own, ours and the stock one in turn; the time is that of the
whole process, interpreter, imports and checkpoint loading included, and the memory is its largest
resident set. Before a time counts, both graphs run in ONNX Runtime and must agree.

    python -m benchmarks.export --shape v3-base --rounds 3
    python -m benchmarks.export --shape xxlarge --rounds 1

Random weights: neither exporter looks at their values. Rows go to `benchmarks/results/export.csv`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from exporter.environment import processor_name

RESULTS = Path(__file__).parent / "results" / "export.csv"
COMMON: dict[str, Any] = {
    "vocab_size": 128100,
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
}
SHAPES: dict[str, dict[str, Any]] = {
    "v3-base": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    },
    "xxlarge": {
        "hidden_size": 1536,
        "num_hidden_layers": 48,
        "num_attention_heads": 24,
        "intermediate_size": 6144,
        "conv_kernel_size": 3,
        "conv_act": "gelu",
    },
}
OURS = """
import sys
from pathlib import Path
from exporter.deberta.checkpoint import open_checkpoint
from exporter.graph.export import export_onnx
export_onnx(open_checkpoint(Path(sys.argv[1])), Path(sys.argv[2]))
"""
STOCK = """
import sys, torch
from transformers import DebertaV2ForSequenceClassification
model = DebertaV2ForSequenceClassification.from_pretrained(sys.argv[1]).eval()
ids, mask = torch.ones(2, 7, dtype=torch.int64), torch.ones(2, 7, dtype=torch.int64)
axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
class Logits(torch.nn.Module):
    def __init__(self): super().__init__(); self.model = model
    def forward(self, input_ids, attention_mask):
        return self.model(input_ids, attention_mask=attention_mask).logits
with torch.no_grad():
    torch.onnx.export(Logits().eval(), (ids, mask), sys.argv[2], dynamo=True, external_data=True,
                      input_names=["input_ids", "attention_mask"], output_names=["logits"],
                      dynamic_shapes=(axes, axes), verbose=False)
"""
AGREEMENT = 1e-4  # relative; two fp32 graphs of up to 48 layers differ by summation order


def make_checkpoint(shape: str, folder: Path) -> None:
    """Save a model of random weights; in a process of its own, whose memory then goes."""
    code = (
        "import sys, json, torch\n"
        "from transformers import DebertaV2Config, DebertaV2ForSequenceClassification\n"
        "torch.manual_seed(0)\n"
        "config = DebertaV2Config(**json.loads(sys.argv[1]))\n"
        "DebertaV2ForSequenceClassification(config).save_pretrained(sys.argv[2])\n"
    )
    fields = json.dumps({**COMMON, **SHAPES[shape]})
    subprocess.run([sys.executable, "-c", code, fields, str(folder)], check=True)


def measure(code: str, checkpoint: Path, path: Path) -> tuple[float, float]:
    """Seconds and peak GiB of one export in a new process."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(checkpoint), str(path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    elapsed = time.perf_counter() - start
    if status:
        raise SystemExit(f"an export failed with status {os.waitstatus_to_exitcode(status)}")
    return elapsed, usage.ru_maxrss / 2**20


def check_agreement(ours: Path, stock: Path) -> float:
    """Largest difference of the two graphs' logits relative to their scale, at a new shape."""
    import numpy as np
    import onnxruntime

    generator = np.random.default_rng(0)
    feeds = {
        "input_ids": generator.integers(0, 1000, (2, 33)),
        "attention_mask": np.ones((2, 33), dtype=np.int64),
    }
    feeds["attention_mask"][1, 20:] = 0
    outputs = []
    for path in (ours, stock):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        outputs.append(session.run(None, feeds)[0])
        del session
    return float(np.abs(outputs[0] - outputs[1]).max() / np.abs(outputs[1]).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="v3-base")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--checkpoint", type=Path, help="use this folder instead of making one")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.checkpoint or Path(scratch) / "checkpoint"
        if arguments.checkpoint is None:
            make_checkpoint(arguments.shape, folder)
        paths = {name: Path(scratch) / name / "model.onnx" for name in ("ours", "stock")}
        for path in paths.values():
            path.parent.mkdir()
        figures: dict[str, list[tuple[float, float]]] = {"ours": [], "stock": []}
        for _ in range(arguments.rounds):
            figures["ours"].append(measure(OURS, folder, paths["ours"]))
            figures["stock"].append(measure(STOCK, folder, paths["stock"]))
        error = check_agreement(paths["ours"], paths["stock"])
    if error > AGREEMENT:
        raise SystemExit(f"the graphs disagree by {error:.2e}: the times mean nothing")

    rows = []
    for name, measured in figures.items():
        seconds, memory = zip(*measured, strict=True)
        rows.append(
            {
                "date": datetime.now(timezone.utc).date().isoformat(),
                "shape": arguments.shape,
                "exporter": name,
                "rounds": arguments.rounds,
                "median_s": round(statistics.median(seconds), 1),
                "min_s": round(min(seconds), 1),
                "max_s": round(max(seconds), 1),
                "peak_gib": round(max(memory), 2),
                "agreement": f"{error:.1e}",
                "cpu": f"{processor_name()}, {os.cpu_count()} cores",
                "torch": version("torch"),
                "onnxscript": version("onnxscript"),
                "transformers": version("transformers"),
            }
        )
    new = not RESULTS.exists()
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(
            f"{row['shape']:10} {row['exporter']:6} {row['median_s']:7} s "
            f"({row['min_s']} to {row['max_s']}) {row['peak_gib']:6} GiB"
        )


if __name__ == "__main__":
    main()
