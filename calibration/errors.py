"""The error of calibration and quantization that a user can act on."""

from __future__ import annotations


class CalibrationError(ValueError):
    """Wrong input: calibration data, a scale table, a policy, or a model that cannot be measured.

    The message is one or two lines: what is wrong, where, and what to do. The command line shows
    it without a traceback and ends with `exit_code`.
    """

    exit_code = 2
