"""The built-in demo: a small DeBERTa-v3-like sentiment classifier and its calibration text.

Data alone, and light to import; `tools/demo_training` in the repository is what trained it.
"""

from __future__ import annotations

from pathlib import Path


def checkpoint_folder() -> Path:
    """Folder of the demo checkpoint, in the Hugging Face format, with its model card."""
    return Path(__file__).resolve().parent / "checkpoint"


def calibration_file() -> Path:
    """Calibration text of the demo: UTF-8, one text per line, from the training part only."""
    return checkpoint_folder() / "calibration.txt"
