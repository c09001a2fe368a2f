"""Errors that a user can act on, each with the exit code of the command line: see `exporter.cli`.

Anything else that escapes is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

from pathlib import Path


class DebExportError(Exception):
    """Base of every error that is shown as a message, without a traceback.

    The message is one or two lines: what is wrong, where, and what to do.
    """

    exit_code = 2


class InputError(DebExportError):
    """Wrong usage or input: a file, a configuration field, an option, a text."""


class RunError(InputError):
    """The model of `path` is loaded and fails on inputs that it should take."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.message = message


class OtherMachineError(InputError):
    """An engine that is for another GPU, or for another version of its runtime."""


class MissingDependencyError(DebExportError):
    """Software or hardware that a target needs is missing."""

    exit_code = 3
