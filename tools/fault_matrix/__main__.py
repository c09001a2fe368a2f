"""The table of docs/parity.md: what each fault changes, and whether the check sees it.

    python -m tools.fault_matrix

Builds the demo in every precision, plants one fault at a time, and prints for each how far the
first stage that fails is from its plan, relative to the root mean square of the stage. Its exit
code is 1 where a fault passes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from exporter.demo import checkpoint_folder
from exporter.errors import InputError
from exporter.pipeline.config import PRECISIONS
from tools.fault_matrix.faults import FAULTS, Fault, has
from tools.fault_matrix.judge import Judged, build_judged

PASSES = "**passes**"


def main() -> int:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        judged = {
            name: build_judged(checkpoint_folder(), folder / name, name) for name in PRECISIONS
        }
        rows = [("fault", *PRECISIONS), ("---",) * (1 + len(PRECISIONS))]
        rows += [
            (fault.name, *(cell(judged[name], fault, name, folder) for name in PRECISIONS))
            for fault in FAULTS
        ]
    for row in rows:
        print("| " + " | ".join(row) + " |")
    return int(any(PASSES in row for row in rows))


def cell(judged: Judged, fault: Fault, precision: str, folder: Path) -> str:
    """What the check says of a fault in a precision."""
    if not has(precision, fault.needs, convolution=False):
        return "–"
    path = folder / "faulty.onnx"
    judged.write_faulty(fault, path)
    try:
        failed = [stage for stage in judged.stages(path) if stage.failure]
    except InputError:
        return "does not run"
    return f"{failed[0].rms:.1g}" if failed else PASSES


if __name__ == "__main__":
    sys.exit(main())
