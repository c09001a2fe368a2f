"""What a row costs `deb-export score` as its input grows, in one process and on Ray.

JSON lines with an id and a text of two to nine words, made from a seed; the demo model, or one with
random weights (`tiny`: 2 layers of 24 values, the demo's tokenizer), in fp32. Each run is a process
of its own, with one thread a replica. Every row must come back, in order, before a figure counts.
The processor time is that of all its processes, less that of a run of a single row, which is what
starting costs; memory is the largest resident set of any process that has the model. Both are read
ten times a second, but for the processor time of one process, which the system tells. Rows per
second are the wall clock's, with starting, and without it from the first shard to the last: they
mean something on a machine that does nothing else.

    python -m benchmarks.scoring --model demo --rows 10000 100000 --ways process ray-1 ray-2

A row for each run goes to `benchmarks/results/scoring.csv`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from benchmarks.result_rows import add_row
from exporter.demo import checkpoint_folder
from exporter.environment import processor_name, usable_processors
from exporter.pipeline.build_artifact import build
from exporter.pipeline.config import BuildConfig

RESULTS = Path(__file__).parent / "results" / "scoring.csv"
WAYS = {
    "process": (),
    "ray-1": ("--ray", "local", "--replicas", "1"),
    "ray-2": ("--ray", "local", "--replicas", "2"),
}
WORDS = "the a good bad film book price nice long short very not is was it never".split()
TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "pooler_hidden_size": 24,
}
TINY |= {"intermediate_size": 48}


def make_artifact(name: str, folder: Path) -> Path:
    """The demo, or a model of its shape with few values, as an artifact."""
    model = None
    if name == "tiny":
        model = write_tiny(folder / "checkpoint")
    output = folder / "artifact"
    if not build(BuildConfig(model=model, output=output, targets=("onnx",))).passed:
        raise SystemExit("the artifact is outside its parity limits")
    return output


def write_tiny(folder: Path) -> Path:
    """A checkpoint of random weights, with the demo's tokenizer."""
    import shutil

    import torch
    from safetensors.torch import save_file

    from exporter.deberta.configuration import DebertaConfig
    from exporter.deberta.heads import make_model
    from exporter.model.task import Task

    demo = checkpoint_folder()
    folder.mkdir()
    for path in demo.iterdir():
        if path.name not in ("model.safetensors", "README.md", "calibration.txt"):
            shutil.copyfile(path, folder / path.name)
    config = {**json.loads((demo / "config.json").read_text()), **TINY}
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = make_model(DebertaConfig.from_folder(folder), Task.SEQUENCE_CLASSIFICATION)
    weights = {name: torch.randn_like(value) * 0.05 for name, value in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    return folder


def write_rows(path: Path, count: int) -> Path:
    """So many rows, the same for the same number."""
    source = random.Random(0)
    with path.open("w") as file:
        for index in range(count):
            text = " ".join(source.choices(WORDS, k=source.randint(2, 9)))
            file.write(json.dumps({"id": index, "text": text}) + "\n")
    return path


def run(artifact: Path, rows: Path, output: Path, way: str) -> tuple[float, float, float]:
    """Seconds of the wall clock, of the processor, and MiB of the largest process with a model."""
    command = [sys.executable, "-m", "exporter", "score", str(artifact), str(rows)]
    command += ["--output", str(output), "--threads", "1", *WAYS[way]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    start, before = time.monotonic(), _children_seconds()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    busy: dict[int, float] = {}
    largest = 0.0
    while process.poll() is None:
        for one in tree(process.pid):
            try:
                times, resident = one.cpu_times(), one.memory_info().rss
                computes = way == "process" or "Replica" in " ".join(one.cmdline())
            except psutil.Error:
                continue
            busy[one.pid] = times.user + times.system
            largest = max(largest, resident / 2**20 if computes else 0.0)
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{way}: exit code {process.returncode}")
    spent = sum(busy.values()) if way != "process" else _children_seconds() - before
    return time.monotonic() - start, spent, largest


def _children_seconds() -> float:
    """Processor time of all processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def tree(pid: int) -> list[psutil.Process]:
    """A process and all that it has started."""
    try:
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    except psutil.Error:
        return []


def check(output: Path, count: int) -> None:
    """Every row is there once, in order, with an answer."""
    found = 0
    for path in sorted(output.glob("part-*")):
        with path.open() as file:
            for line in file:
                row = json.loads(line)
                if row["id"] != found or row["prediction_error"] is not None:
                    raise SystemExit(f"{path}: row {found} is {line[:200]}")
                found += 1
    if found != count:
        raise SystemExit(f"{output}: {found} rows of {count}")


def steady(output: Path) -> int | str:
    """Rows per second from the first shard that was written to the last; empty for a single one."""
    times = sorted(path.stat().st_mtime for path in output.glob("part-*"))
    log = [json.loads(line) for line in (output / "shards.jsonl").open()]
    if len(times) < 2:
        return ""
    return round(sum(shard["rows"] for shard in log[1:]) / (times[-1] - times[0]))


def measure(
    model: str, counts: list[int], ways: list[str], folder: Path
) -> Iterator[dict[str, object]]:
    """A row for each run; the ways take turns."""
    artifact = make_artifact(model, folder)
    one = write_rows(folder / "one.jsonl", 1)
    starts = {way: run(artifact, one, folder / f"start-{way}", way)[1] for way in ways}
    for count in counts:
        rows = write_rows(folder / f"{count}.jsonl", count)
        for way in ways:
            output = folder / f"{way}-{count}"
            wall, busy, largest = run(artifact, rows, output, way)
            check(output, count)
            yield {
                "date": datetime.now(timezone.utc).date().isoformat(),
                "model": model,
                "way": way,
                "rows": count,
                "start_cpu_s": round(starts[way], 2),
                "cpu_us_per_row": round(1e6 * (busy - starts[way]) / count, 1),
                "peak_mib": round(largest),
                "rows_per_s": round(count / wall),
                "steady_rows_per_s": steady(output),
                "load": round(os.getloadavg()[0], 1),
                "cpu": processor_name(),
                "processors": usable_processors(),
                **{name: installed(name) for name in ("onnxruntime", "ray")},
            }


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", choices=("demo", "tiny"), default="demo")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=["process"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for row in measure(arguments.model, arguments.rows, arguments.ways, Path(name)):
            add_row(RESULTS, row)
            print(row, flush=True)


if __name__ == "__main__":
    main()
