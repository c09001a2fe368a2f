"""The table of docs/parity.md: what each fault changes, and whether the check sees it.

    python -m tools.fault_matrix
    python -m tools.fault_matrix --last

Builds the demo in every precision, plants one fault at a time, and prints for each how far the
first stage that fails is from its plan, relative to the root mean square of the stage. With
`--last` they are planted into the last layer, which computes the first token alone. Its exit code
is 1 where a fault passes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from exporter.demo import checkpoint_folder
from exporter.errors import InputError
from exporter.pipeline.config import PRECISIONS
from tools.fault_matrix.faults import FAULTS, Fault, NotHereError, has
from tools.fault_matrix.judge import LAYER, Judged, build_judged

PASSES = "**passes**"


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--last", action="store_true", help="plant into the last layer")
    last = parser.parse_args().last
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        judged = {
            name: build_judged(checkpoint_folder(), folder / name, name) for name in PRECISIONS
        }
        rows = [("fault", *PRECISIONS), ("---",) * (1 + len(PRECISIONS))]
        rows += [
            (fault.name, *(cell(judged[name], fault, name, folder, last) for name in PRECISIONS))
            for fault in FAULTS
        ]
    for row in rows:
        print("| " + " | ".join(row) + " |")
    return int(any(PASSES in row for row in rows))


def cell(judged: Judged, fault: Fault, precision: str, folder: Path, last: bool) -> str:
    """What the check says of a fault in a precision."""
    if not has(precision, fault.needs, convolution=False, one_row=last):
        return "–"
    path = folder / "faulty.onnx"
    try:
        judged.write_faulty(fault, path, judged.last if last else LAYER)
    except NotHereError:
        return "–"
    try:
        failed = [stage for stage in judged.stages(path) if stage.failure]
    except InputError:
        return "does not run"
    return f"{failed[0].rms:.1g}" if failed else PASSES


if __name__ == "__main__":
    sys.exit(main())
