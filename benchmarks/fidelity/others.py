"""The peers, each a script that runs in its own environment on the stock graph."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.fidelity.environments import Environments
from benchmarks.fidelity.result import Result, Unavailable, last_line
from benchmarks.fidelity.sentences import Ids
from benchmarks.fidelity.stock import BATCH, onnx_logits

SCRIPTS = Path(__file__).parent / "peers"
LIMIT_S = 600


@dataclass(frozen=True)
class Peer:
    """A quantizer: its environment, its script below `peers/`, and the script's method."""

    environment: str
    script: str
    method: str


PEERS = {
    "onnxruntime-minmax": Peer("ort", "ort_static.py", "minmax"),
    "onnxruntime-minmax-all": Peer("ort", "ort_static.py", "minmax-all"),
    "onnxruntime-entropy": Peer("ort", "ort_static.py", "entropy"),
    "onnxruntime-percentile": Peer("ort", "ort_static.py", "percentile"),
    "onnxruntime-dynamic": Peer("ort", "ort_dynamic.py", "dynamic"),
    "modelopt-max": Peer("modelopt", "modelopt_int8.py", "max"),
    "modelopt-entropy": Peer("modelopt", "modelopt_int8.py", "entropy"),
    "nncf-onnx": Peer("nncf", "nncf_ptq.py", "onnx"),
    "nncf-openvino": Peer("nncf", "nncf_ptq.py", "openvino"),
    "nncf-openvino-accurate": Peer("nncf", "nncf_ptq.py", "openvino-accurate"),
    "openvino-bf16": Peer("nncf", "openvino_cpu.py", "bf16"),
    "openvino-fp16": Peer("nncf", "openvino_cpu.py", "f16"),
}


@dataclass(frozen=True)
class Inputs:
    """Files that every peer gets: the stock graph and both parts' sentences."""

    model: Path
    calibration: Path
    test: Path


def measure(
    peer: Peer, environments: Environments, inputs: Inputs, folder: Path, rows: Sequence[Ids]
) -> Result:
    """Run a peer's script in its environment, then its graph on the test sentences.

    ONNX graphs run in this process's ONNX Runtime, whichever version their maker uses; the log is
    `log.txt` in `folder`, which is replaced.

    Raises:
        Unavailable: no environment, or the script or the graph fails.
    """
    python = environments.interpreter(peer.environment)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [str(python), str(SCRIPTS / peer.script), "--method", peer.method]
    for name, path in (
        ("--model", inputs.model),
        ("--calibration", inputs.calibration),
        ("--test", inputs.test),
        ("--output", folder),
    ):
        command += [name, str(path.absolute())]
    # This project's own paths must not reach the peer's interpreter.
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with (folder / "log.txt").open("w") as log:
        try:
            done = subprocess.run(
                command, stdout=log, stderr=subprocess.STDOUT, env=variables, timeout=LIMIT_S
            )
        except subprocess.TimeoutExpired:
            raise Unavailable(f"not done after {LIMIT_S} s") from None
    if done.returncode:
        raise Unavailable(last_line((folder / "log.txt").read_text(errors="replace")))
    result = json.loads((folder / "result.json").read_text())
    files = [folder / name for name in result["model"]] or [inputs.model]
    if "logits" in result:
        logits = np.load(folder / result["logits"])
    else:
        try:
            logits = onnx_logits(files[0], rows, result.get("batch", BATCH))
        except RuntimeError as error:
            raise Unavailable(f"ONNX Runtime: {last_line(str(error))}") from None
        except Exception as error:
            # ONNX Runtime's exceptions have no common public base.
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            raise Unavailable(f"ONNX Runtime: {last_line(str(error))}") from None
    return Result(
        logits=logits,
        bytes=sum(path.stat().st_size for path in files),
        seconds=result["seconds"],
        versions=result["versions"],
        note=result.get("note", ""),
    )
