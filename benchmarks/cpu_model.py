"""A whole model on a CPU: ours beside the stock exports, in ONNX Runtime and in OpenVINO.

The shape is v3-base with a vocabulary of 1000 and random weights. The stock graph is what
`torch.onnx.export` makes of the `transformers` model; its int8 forms are ONNX Runtime's
`quantize_dynamic` and NNCF's transformer scheme for OpenVINO. Stock contenders run with the
runtime's default session, ours with the project's own; all with the same number of threads.
Outputs are compared with those of the stock graph in fp32 first: ours must be within the
project's limits, a stock contender that is not is marked so. Then all run in turn.

    python -m benchmarks.cpu_model --runtime onnxruntime
    python -m benchmarks.cpu_model --runtime openvino
    python -m benchmarks.cpu_model --profile

`--clock processor` counts the processor time of this process, which on a machine that others use as
well says more than the wall's; with one thread the two are the same on an idle one.

Rows go to `benchmarks/results/cpu_model.csv`, those of `--profile` to `cpu_model_profile.csv`. The
`peers` scripts of `benchmarks/fidelity` make the stock int8 graphs; OpenVINO needs `openvino` and
`nncf`.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from benchmarks import export
from benchmarks.cpu_model_profile import profile_rows
from benchmarks.cpu_model_runtimes import (
    GEMMS,
    GemmSession,
    StockOnnxRuntime,
    StockOpenVino,
    ideal_ms,
)
from calibration.formats import NumberFormat
from calibration.placement import PlacementPolicy, place
from calibration.sites import find_sites
from exporter.bench.agreement import agreement
from exporter.bench.measure import time_in_turn
from exporter.bench.workloads import Workload
from exporter.deberta.checkpoint import Checkpoint, open_checkpoint
from exporter.environment import processor_name
from exporter.graph.attention_body import SKEW_UP_TO
from exporter.graph.export import export_onnx
from exporter.graph.write import write_model
from exporter.model.feeds import Ids
from exporter.model.model_shape import ModelShape
from exporter.precision.quantized.calibrate import calibrate, recipes_of
from exporter.precision.quantized.calibration_text import SHORT_TEXTS, TextBatches
from exporter.precision.quantized.candidates import Candidates
from exporter.precision.quantized.quantization_options import QuantizationOptions
from exporter.runtime.providers.onnx_session import OnnxSession
from exporter.runtime.providers.openvino_session import OpenVinoSession
from exporter.runtime.runtime_options import RuntimeOptions
from exporter.runtime.session import Session

RESULTS = Path(__file__).parent / "results"
PEERS = Path(__file__).parent / "fidelity" / "peers"
VOCABULARY = 1000
SHAPES = ((1, 128), (1, 512), (8, 128), (4, 512))
CALIBRATION = (*SHORT_TEXTS[:5], 16, 64, 128)
COMPARED = ((1, 1), (1, 17), (3, 63), (2, 128), (1, 512))
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


@dataclass(frozen=True)
class Contender:
    """A graph on a runtime.

    Attributes:
        graph: key of the file: whose, and in which precision.
        runtime: `onnxruntime` or `openvino`.
        gemm: one of `GEMMS`, whose rate is the ideal of its linear layers.
        weight_bits: of int8 weights.
        longest: tokens of the longest text that it is timed on.
        kernel: of ours in ONNX Runtime, what computes the attention.
    """

    graph: str
    runtime: str
    gemm: str = "fp32"
    weight_bits: int = 8
    longest: int = 2048
    kernel: str = "body"

    @property
    def label(self) -> str:
        """Whose graph, and what computes its attention where that is not the graph itself."""
        return self.graph + (", native attention" if self.kernel == "native" else "")

    @property
    def name(self) -> str:
        return f"{self.label}, {self.runtime}"

    @property
    def limits(self) -> str:
        return "int8" if "int8" in self.graph else "fp32"


SHORT = ", for 128 tokens"
"""Ours as a build with `--seq 1,64,128 --target onnx` makes it."""
ONNX_RUNTIME = (
    Contender("stock fp32", "onnxruntime"),
    Contender("stock dynamic int8", "onnxruntime", "int8 fast"),
    Contender("ours fp32", "onnxruntime"),
    Contender("ours int8", "onnxruntime", "int8 exact"),
    Contender("ours int8 weights of 7 bits", "onnxruntime", "int8 fast", 7),
    Contender("ours fp32", "onnxruntime", kernel="native"),
    Contender("ours int8", "onnxruntime", "int8 exact", kernel="native"),
    Contender("ours int8 weights of 7 bits", "onnxruntime", "int8 fast", 7, kernel="native"),
    Contender("ours fp32" + SHORT, "onnxruntime", longest=SKEW_UP_TO),
    Contender("ours int8" + SHORT, "onnxruntime", "int8 exact", longest=SKEW_UP_TO),
    Contender(
        "ours int8 weights of 7 bits" + SHORT, "onnxruntime", "int8 fast", 7, longest=SKEW_UP_TO
    ),
)
OPENVINO = (
    ONNX_RUNTIME[0],
    Contender("stock fp32", "openvino"),
    Contender("stock NNCF int8", "openvino", "int8 fast"),
    Contender("ours fp32", "openvino"),
    # Where OpenVINO's int8 products saturate, these are computed in fp32: see OpenVinoSession.
    Contender("ours int8", "openvino", "int8 exact"),
    Contender("ours int8 weights of 7 bits", "openvino", "int8 fast", 7),
    Contender("ours fp32" + SHORT, "openvino", longest=SKEW_UP_TO),
    Contender(
        "ours int8 weights of 7 bits" + SHORT, "openvino", "int8 fast", 7, longest=SKEW_UP_TO
    ),
)
CONTENDERS = {"onnxruntime": ONNX_RUNTIME, "openvino": OPENVINO}


def make_graphs(folder: Path, wanted: set[str]) -> tuple[dict[str, Path], Checkpoint]:
    """The files of all contenders, those that are there already left alone."""
    export.COMMON["vocab_size"] = VOCABULARY
    source = folder / "checkpoint"
    if not source.is_dir():
        export.make_checkpoint("v3-base", source)
    checkpoint = open_checkpoint(source)
    files = {
        "stock fp32": folder / "stock" / "model.onnx",
        "stock dynamic int8": folder / "dynamic" / "model.onnx",
        "stock NNCF int8": folder / "nncf" / "model.xml",
        "ours fp32": folder / "ours.onnx",
        "ours int8": folder / "ours-int8.onnx",
        "ours int8 weights of 7 bits": folder / "ours-int7.onnx",
    }
    for name in ("ours fp32", "ours int8", "ours int8 weights of 7 bits"):
        files[name + SHORT] = files[name].with_stem(f"{files[name].stem}-short")
    stock = files["stock fp32"]
    if not stock.is_file():
        stock.parent.mkdir(exist_ok=True)
        export.measure(export.STOCK, source, stock)
    for name, script, method in (
        ("stock dynamic int8", "ort_dynamic.py", "dynamic"),
        ("stock NNCF int8", "nncf_ptq.py", "openvino"),
    ):
        if name in wanted and not files[name].is_file():
            _run_peer(script, method, stock, files[name].parent)
    if not all(path.is_file() for name, path in files.items() if name.startswith("ours")):
        make_ours(checkpoint, files)
    return files, checkpoint


def make_ours(checkpoint: Checkpoint, files: Mapping[str, Path]) -> None:
    """Our graphs; int8 is calibrated on random ids."""
    source = files["ours fp32"]
    export_onnx(checkpoint, source, external_data=True)
    export_onnx(checkpoint, files["ours fp32" + SHORT], external_data=True, reading="skew")
    sites = find_sites(ir.load(source))
    placement = place(PlacementPolicy(), sites)
    batches = [_feeds(4, length, seed=length) for length in CALIBRATION]
    text = TextBatches(tuple(batches), (), data_hash="b" * 64, warnings=())
    table = calibrate(source, sites, text, QuantizationOptions(), model_hash="a" * 64)
    recipes = recipes_of(table, placement.quantized)
    shape = checkpoint.shape
    for end in ("", SHORT):
        exact = files["ours fp32" + end]
        for name, weights in (
            ("ours int8", None),
            ("ours int8 weights of 7 bits", NumberFormat.INT7),
        ):
            with Candidates(exact, shape, placement, recipes, NumberFormat.INT8, weights) as made:
                write_model(made.make(placement)[0], files[name + end])


def _run_peer(script: str, method: str, stock: Path, folder: Path) -> None:
    """A peer's quantizer, as `benchmarks/fidelity` runs it."""
    folder.mkdir(exist_ok=True)
    rows = folder / "rows.npz"
    generator = np.random.default_rng(1)
    lengths = generator.integers(16, 129, 24)
    np.savez(rows, ids=generator.integers(0, VOCABULARY, lengths.sum()), lengths=lengths)
    command = [sys.executable, str(PEERS / script), "--method", method, "--model", str(stock)]
    command += ["--calibration", str(rows), "--test", str(rows), "--output", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _feeds(batch: int, length: int, seed: int = 0) -> dict[str, Ids]:
    """Random ids without padding."""
    ids = np.random.default_rng(seed).integers(0, VOCABULARY, (batch, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def compared_batches() -> list[dict[str, Ids]]:
    """What outputs are compared on: several lengths, and ragged padding."""
    batches = [_feeds(batch, length, seed=length) for batch, length in COMPARED]
    for feeds in batches:
        rows, length = feeds["input_ids"].shape
        for row in range(1, rows):
            feeds["attention_mask"][row, length * (row + 1) // (rows + 1) :] = 0
    return batches


def open_contender(contender: Contender, path: Path, shape: ModelShape, threads: int) -> Session:
    """The session of a contender."""
    options = RuntimeOptions(threads=threads)
    if contender.graph.startswith("stock"):
        stock = {"onnxruntime": StockOnnxRuntime, "openvino": StockOpenVino}[contender.runtime]
        return stock(path, shape, threads)
    bits = contender.weight_bits
    if contender.runtime == "openvino":
        return OpenVinoSession(path, shape, options=options, weight_bits=bits)
    options = replace(options, attention_kernel=contender.kernel)
    return OnnxSession(path, shape, options=options, weight_bits=bits)


def measure(
    files: Mapping[str, Path], checkpoint: Checkpoint, arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Compare, then time; a row for each contender and shape."""
    wanted = arguments.graph or [item.graph for item in CONTENDERS[arguments.runtime]]
    contenders = [
        item
        for number, item in enumerate(CONTENDERS[arguments.runtime])
        if not number or item.graph in wanted
    ]
    shape, config = checkpoint.shape, checkpoint.config
    compared = compared_batches()
    with ExitStack() as stack:
        sessions: dict[str, Session] = {}
        checks = {}
        expected = None
        for contender in contenders:
            session = open_contender(contender, files[contender.graph], shape, arguments.threads)
            sessions[contender.name] = stack.enter_context(session)
            found = [session.run(**feeds) for feeds in compared]
            expected = found if expected is None else expected
            check = agreement(shape, compared, expected, found, (contender.limits,))
            print(f"{contender.name}: {check.max_relative:.1e} {check.verdict}", flush=True)
            if not check and contender.graph.startswith("ours"):
                raise SystemExit(f"{contender.name}: {check.verdict}; its times mean nothing")
            checks[contender.name] = check
        gemms = {name: GemmSession(name, shape, arguments.threads) for name in GEMMS}
        for batch, length in arguments.shapes:
            timed = [contender for contender in contenders if length <= contender.longest]
            workload = Workload(f"{batch}x{length}", batch, batch * length, _feeds(batch, length))
            timings = {
                timing.contender: timing
                for timing in time_in_turn(
                    workload,
                    {item.name: sessions[item.name] for item in timed} | gemms,
                    arguments.rounds,
                    1,
                    lambda message: None,
                    CLOCKS[arguments.clock],
                )
            }
            for contender in timed:
                timing = timings[contender.name]
                rates = {name: 1e-3 * timings[name].latency_ms for name in GEMMS}
                ideal = ideal_ms(config, batch, length, contender.gemm, rates)
                check = checks[contender.name]
                yield {
                    "date": datetime.now(timezone.utc).date().isoformat(),
                    "contender": contender.label,
                    "runtime": contender.runtime,
                    "batch": batch,
                    "length": length,
                    "threads": arguments.threads,
                    "rounds": arguments.rounds,
                    "clock": arguments.clock,
                    "median_ms": round(timing.latency_ms, 1),
                    "p20_ms": round(timing.spread_ms[0], 1),
                    "p80_ms": round(timing.spread_ms[1], 1),
                    "ratio": round(timing.ratio, 3),
                    "times_ideal": round(timing.latency_ms / ideal, 2),
                    "max_relative": f"{check.max_relative:.1e}",
                    "rms_relative": f"{check.rms_relative:.1e}",
                    "within_limits": "yes" if check else "no",
                    **machine(),
                }


def machine() -> dict[str, Any]:
    """Hardware and versions."""
    names = ("onnxruntime", "openvino", "nncf", "torch", "transformers")
    return {
        "cpu": processor_name(),
        "cores": os.cpu_count(),
        "versions": " ".join(f"{name} {version(name)}" for name in names),
    }


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Add rows to the results."""
    new = not path.exists()
    with path.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runtime", choices=list(CONTENDERS), default="onnxruntime")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--shape", action="append", help="BATCHxLENGTH; the issue's four if none")
    parser.add_argument("--graph", action="append", help="only these beside the first; all if none")
    parser.add_argument("--profile", action="store_true", help="operators of ONNX Runtime's graphs")
    parser.add_argument("--scratch", type=Path, help="folder of graphs to make, or to use again")
    arguments = parser.parse_args()
    given = arguments.shape or [f"{batch}x{length}" for batch, length in SHAPES]
    arguments.shapes = [tuple(map(int, text.split("x"))) for text in given]
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.scratch or Path(temporary)
        folder.mkdir(exist_ok=True)
        wanted = {contender.graph for contender in CONTENDERS[arguments.runtime]}
        files, checkpoint = make_graphs(folder, wanted)
        if arguments.profile:
            rows = [
                {**row, **machine()}
                for contender in ONNX_RUNTIME
                if contender.kernel == "body"
                for row in profile_rows(
                    files[contender.graph],
                    contender.graph,
                    exact=contender.gemm == "int8 exact",
                    threads=arguments.threads,
                    batches=[
                        _feeds(*item) for item in arguments.shapes if item[1] <= contender.longest
                    ],
                    runs=arguments.rounds,
                )
            ]
            write(RESULTS / "cpu_model_profile.csv", rows)
            return
        for row in measure(files, checkpoint, arguments):
            write(RESULTS / "cpu_model.csv", [row])
            print(
                f"{row['batch']}x{row['length']:<4} {row['contender']:28} {row['runtime']:12} "
                f"{row['median_ms']:8} ms  {row['ratio']:5} [{row['times_ideal']}]",
                flush=True,
            )


if __name__ == "__main__":
    main()
