"""Loads TensorRT's bindings before the tests here, which run in a process of their own.

`tests/unit/engine/test_tensorrt_bindings.py` starts it, with the folder of the libraries.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

FOLDER = "DEB_EXPORT_BINDINGS"
_MOST_BYTES = 16 << 30

sys.path.insert(0, str(Path(__file__).parents[1]))
if FOLDER in os.environ:
    import resource  # not on every system, and neither are the bindings

    from support.bindings_libraries import load

    # A stand-in for a network can be iterated without end, which must not take the machine.
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = _MOST_BYTES if hard == resource.RLIM_INFINITY else min(_MOST_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    load(Path(os.environ[FOLDER]))
else:
    collect_ignore_glob = ["test_*.py"]
