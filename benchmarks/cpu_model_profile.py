"""Where ONNX Runtime spends its time in a graph, by operator of the optimized graph."""

from __future__ import annotations

import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from exporter.model.feeds import Ids
from exporter.runtime.providers.onnx_session import EXACT_INTEGERS


def profile_rows(
    graph: Path,
    name: str,
    *,
    exact: bool,
    threads: int,
    batches: Sequence[Mapping[str, Ids]],
    runs: int,
) -> Iterator[dict[str, Any]]:
    """Rows for every batch: each operator's nodes, milliseconds and share of the sum.

    A node counts with the least time of all nodes of its operator and shapes, over all layers and
    runs: ONNX Runtime's clock is the wall's, and what else the machine does is to be left out.

    Args:
        graph: an .onnx file.
        name: what rows call it.
        exact: whether the session has `EXACT_INTEGERS`.
        threads: of the session.
        batches: inputs, each profiled on its own.
        runs: of each.
    """
    for feeds in batches:
        times, kinds = node_times(graph, feeds, exact=exact, threads=threads, runs=runs)
        total = sum(times.values())
        spent: dict[str, float] = defaultdict(float)
        for node, milliseconds in times.items():
            spent[kinds[node]] += milliseconds
        counts = Counter(kinds.values())
        batch, length = feeds["input_ids"].shape
        for kind, milliseconds in sorted(spent.items(), key=lambda item: -item[1]):
            yield {
                "date": datetime.now(timezone.utc).date().isoformat(),
                "contender": name,
                "batch": batch,
                "length": length,
                "threads": threads,
                "operator": kind,
                "nodes": counts[kind],
                "ms": round(milliseconds, 2),
                "share": round(milliseconds / total, 4),
                "sum_ms": round(total, 1),
            }


def node_times(
    graph: Path, feeds: Mapping[str, Ids], *, exact: bool, threads: int, runs: int
) -> tuple[dict[str, float], dict[str, str]]:
    """Milliseconds of each node of the optimized graph, and its operator, by its name."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.enable_profiling = True
    for key, value in EXACT_INTEGERS.items() if exact else ():
        options.add_session_config_entry(key, value)
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(
            str(graph), options, providers=["CPUExecutionProvider"]
        )
        for _ in range(runs):
            session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text())
    least: dict[str, float] = {}
    alike: dict[str, str] = {}
    kinds: dict[str, str] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            name, facts = event["name"], event["args"]
            kinds[name] = facts["op_name"]
            # Packed weights are not among the inputs: the output tells products apart.
            sizes = facts.get("input_type_shape"), facts.get("output_type_shape")
            alike[name] = f"{facts['op_name']} {sizes}"
            least[alike[name]] = min(least.get(alike[name], float("inf")), 1e-3 * event["dur"])
    return {name: least[key] for name, key in alike.items()}, kinds
