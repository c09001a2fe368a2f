"""Times an engine build by TensorRT-RTX, which needs no GPU, and measures its memory.

    python -m benchmarks.engine artifacts/mine/model.onnx --profile 1,8,32x1,128,512
    python -m benchmarks.engine artifacts/mine/model.onnx --profile 8x512 --attention standard

Appends a row to benchmarks/results/engine.csv: the builder's own seconds, the processor time and
the peak memory of its process, the memory that was foreseen, and, for a profile of one shape, the
bytes that the engine's kernels read and write.
"""

from __future__ import annotations

import argparse
import csv
import resource
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from exporter.artifact.engine_record import EngineOptions
from exporter.artifact.graph_description import describe_graph
from exporter.engine.backend import TENSORRT_RTX
from exporter.engine.build_engine import build_engine
from exporter.engine.layers import KernelSummary, read_kernels
from exporter.engine.memory import expected_bytes, graph_bytes
from exporter.environment import processor_name, usable_processors
from exporter.model.profile import ShapeProfile

RESULTS = Path(__file__).parent / "results" / "engine.csv"
GIB = 1 << 30


def main() -> None:
    """Build once and append a row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("graph", type=Path)
    parser.add_argument("--profile", default="1,8,32x1,128,512")
    parser.add_argument("--compute-capability", default="89")
    parser.add_argument("--attention", default="graph")
    arguments = parser.parse_args()
    graph = describe_graph(arguments.graph)
    options = EngineOptions(
        EngineOptions.parse_capabilities(arguments.compute_capability),
        attention=arguments.attention,
    )
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
        kernels = read_kernels(Path(folder) / made.layers)
    summary = KernelSummary.of(kernels)
    traffic = summary.traffic_bytes
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = used.ru_utime + used.ru_stime
    size = graph_bytes(arguments.graph)
    row = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "builder": f"TensorRT-RTX {made.version}",
        "processor": f"{processor_name()}, {usable_processors()} usable",
        "layers": graph.layers,
        "precision": graph.metadata.get("deb_export.precision", next(iter(graph.weights))),
        "profile": arguments.profile,
        "compute_capability": arguments.compute_capability,
        "graph_gib": round(size / GIB, 3),
        "plan_gib": round(made.bytes / GIB, 3),
        "activation_gib": round((made.activation_bytes or 0) / GIB, 3),
        "body": arguments.attention,
        "attention": made.attention,
        "kernels": summary.kernels,
        "traffic_gib": "" if traffic is None else round(traffic / GIB, 3),
        "seconds": round(made.seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
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
