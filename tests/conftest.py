"""Makes `tests/support` importable, and keeps the tests from using more threads than they need."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
