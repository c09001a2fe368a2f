"""Times an engine build by TensorRT-RTX, which needs no GPU, and measures its memory.

    python benchmarks/engine.py artifacts/mine/model.onnx --profile 1,8,32x1,128,512

Appends a row to benchmarks/results/engine.csv: the builder's own seconds, the peak memory of its
process, and the memory that was foreseen.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from exporter.engine.backend import TENSORRT_RTX
from exporter.engine.build import build_engine
from exporter.engine.memory import expected_bytes, graph_bytes
from exporter.engine.options import EngineOptions
from exporter.engine.profiles import ShapeProfile
from exporter.environment import processor_name, usable_processors
from exporter.inspection import describe_graph

RESULTS = Path(__file__).parent / "results" / "engine.csv"
GIB = 1 << 30


def main() -> None:
    """Build once and append a row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("graph", type=Path)
    parser.add_argument("--profile", default="1,8,32x1,128,512")
    parser.add_argument("--compute-capability", default="89")
    arguments = parser.parse_args()
    graph = describe_graph(arguments.graph)
    options = EngineOptions(EngineOptions.parse_capabilities(arguments.compute_capability))
    with tempfile.TemporaryDirectory(dir=arguments.graph.parent) as folder:
        made = build_engine(
            TENSORRT_RTX,
            arguments.graph,
            Path(folder) / "model.rtx.plan",
            [value.name for value in graph.inputs],
            [ShapeProfile.parse(arguments.profile)],
            options,
            print,
        )
    size = graph_bytes(arguments.graph)
    row = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "builder": f"TensorRT-RTX {made.version}",
        "processor": f"{processor_name()}, {usable_processors()} usable",
        "layers": graph.layers,
        "precision": graph.metadata.get("deb_export.precision", "fp32"),
        "profile": arguments.profile,
        "compute_capability": arguments.compute_capability,
        "graph_gib": round(size / GIB, 3),
        "plan_gib": round(made.bytes / GIB, 3),
        "activation_gib": round((made.activation_bytes or 0) / GIB, 3),
        "attention": made.attention,
        "seconds": round(made.seconds, 1),
        "peak_gib": round(made.host_peak_bytes / GIB, 2),
        "foreseen_gib": round(expected_bytes(size) / GIB, 2),
    }
    new = not RESULTS.is_file()
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(row)


if __name__ == "__main__":
    main()
