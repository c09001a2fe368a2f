"""Options and output that the subcommands share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import click

from exporter.artifact.files import write_output

Command = TypeVar("Command", bound=Callable[..., Any])

FILE = click.Path(path_type=Path)
FILE_OR_STDOUT = click.Path(path_type=Path, allow_dash=True)

artifact_argument = click.argument("artifact", type=FILE)


def option_group(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """A decorator that adds `options`, in the help in this order."""

    def add(command: Command) -> Command:
        return reduce(lambda done, option: option(done), reversed(options), command)

    return add


def take(
    config: type, given: dict[str, Any], names: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The fields of a configuration among a command's parameters, which are taken out of `given`.

    `names` has parameters that are not named as the field is, by the field.
    """
    names = names or {}
    return {item.name: given.pop(names.get(item.name, item.name)) for item in fields(config)}


@dataclass
class Settings:
    """What the error handling needs to know from the options of one call."""

    debug: bool = False


def _remember(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    del parameter
    if value:
        context.ensure_object(Settings).debug = True


debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_remember,
    help="Show the traceback of an error.",
)


def write_json(path: Path, content: object) -> None:
    """Write `content` as JSON to a file, or to stdout for `-`.

    Raises:
        InputError: the file cannot be written.
    """
    write_output(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
