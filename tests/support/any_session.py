"""Opens graphs as anybody's session may, with ONNX Runtime and numpy alone; run as a script.

The folder given has graphs and beside each `<graph>.npz`: its inputs, and as `expected` the first
output. Prints a line for what fails or differs, and exits with 1.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import onnxruntime

LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")
BOUND = 1e-5
STEPS = {"int7": 2e-3, "int8": 2e-3}
TOLERANCE = {"fp16": 4e-3}  # kernels in half since 1.24; a rounding of half is 5e-4
VERSION = tuple(map(int, onnxruntime.__version__.split(".")[:2]))


def problem(path: Path, exact: bool, fixed: bool, level: str) -> str | None:
    """What goes wrong with one way of opening a graph and running it."""
    data = dict(np.load(path.with_suffix(".npz")))
    expected = data.pop("expected")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    if fixed:
        sizes = data["input_ids"].shape
        names = ("batch", "choices", "sequence") if len(sizes) == 3 else ("batch", "sequence")
        for name, size in zip(names, sizes):  # noqa: B905
            options.add_free_dimension_override_by_name(name, size)
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        found = session.run(None, data)[0]
    except Exception as error:
        return str(error).splitlines()[0][:200]
    difference = np.abs(found - expected) / np.abs(expected).max()
    errors = difference.reshape(len(difference), -1).max(axis=1)
    kind = path.stem.rpartition("-")[2]
    # A value near the middle of two int8 steps is rounded to either by sums in another order: all
    # of that text moves by a share of a step, and the other texts not at all.
    if kind in STEPS and np.median(errors) <= BOUND and errors.max() <= STEPS[kind]:
        return None
    bound = TOLERANCE.get(kind, BOUND)
    return None if errors.max() <= bound else "differs by " + ", ".join(f"{e:.1e}" for e in errors)


def main(folder: Path) -> int:
    """Try every graph in every way that has to work."""
    tried = wrong = 0
    for path in sorted(folder.glob("*.onnx")):
        levels = LEVELS[:2] if path.stem.endswith("fp8") and VERSION < (1, 32) else LEVELS
        # Weights of 8 bits are right everywhere with exact products alone.
        options = (True,) if path.stem.endswith("int8") else (True, False)
        for how in itertools.product(options, (True, False), levels):
            print(f"trying {path.name} {how}", file=sys.stderr, flush=True)  # it may abort
            found = problem(path, *how)
            tried += 1
            if found is not None:
                wrong += 1
                print(f"{path.name} exact, fixed, level = {how}: {found}")
    print(f"ONNX Runtime {onnxruntime.__version__}: {tried} sessions, {wrong} wrong")
    return 1 if wrong or not tried else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
