"""Options and output that the subcommands share."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from exporter.errors import InputError

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass
class Settings:
    """What the error handling needs to know from the options of one call."""

    debug: bool = False


def debug_option(command: Command) -> Command:
    """Add `--debug`, which keeps the traceback of an error."""

    def remember(context: click.Context, parameter: click.Parameter, value: bool) -> None:
        del parameter
        if value:
            context.ensure_object(Settings).debug = True

    option = click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        callback=remember,
        help="Show the traceback of an error.",
    )
    return option(command)


def artifact_argument(command: Command) -> Command:
    """Add the argument ARTIFACT, a folder."""
    return click.argument("artifact", type=click.Path(path_type=Path))(command)


def write_json(path: Path, content: object) -> None:
    """Write `content` as JSON to a file, or to stdout for `-`.

    Raises:
        InputError: the file cannot be written.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    if str(path) == "-":
        sys.stdout.write(text)
        return
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
