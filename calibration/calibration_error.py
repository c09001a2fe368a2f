"""The error of calibration and quantization that a user can act on."""


class CalibrationError(ValueError):
    """Wrong input: calibration data, a scale table, a policy, or a model that cannot be measured.

    The message is one or two lines: what is wrong, where, and what to do.
    """
