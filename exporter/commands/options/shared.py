"""Options and output that the subcommands share."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import click

from exporter.artifact.files import usable_path, write_output
from exporter.model.profile import Range

Command = TypeVar("Command", bound=Callable[..., Any])
Config = TypeVar("Config")


class _UsablePath(click.Path):
    """A path, refused where it is not UTF-8."""

    def convert(self, value: Any, param: Any, context: Any) -> Path:
        return usable_path(os.fsdecode(super().convert(value, param, context)))


class RenamingCommand(click.Command):
    """A command that takes the old spellings of its options for one more release, with a warning.

    `renamed` has what to write now by the option that was.
    """

    def __init__(self, *given: Any, renamed: Mapping[str, str], **settings: Any) -> None:
        super().__init__(*given, **settings)
        self._renamed = renamed

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        written: list[str] = []
        for index, word in enumerate(args):
            if word == "--":
                return super().parse_args(ctx, [*written, *args[index:]])
            option, *value = word.split("=", 1)
            if option in self._renamed:
                now = self._renamed[option]
                warn_of_old(f"{ctx.info_name} {option}", now)
                word = "=".join([now, *value])
            written.append(word)
        return super().parse_args(ctx, written)


def warn_of_old(old: str, now: str) -> None:
    """Warn of a spelling of the command line that goes away."""
    warnings.warn(f"{old} is an old spelling, gone in the next release; write {now}", stacklevel=2)


FILE = _UsablePath(path_type=Path)
FILE_OR_STDOUT = _UsablePath(path_type=Path, allow_dash=True)
_TYPES = {"int": int, "float": float, "Path": FILE}

artifact_argument = click.argument("artifact", type=FILE)


def option_group(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """A decorator that adds `options`, in the help in this order."""

    def add(command: Command) -> Command:
        return reduce(lambda done, option: option(done), reversed(options), command)

    return add


def config_options(config: type, helps: Mapping[str, str]) -> Callable[[Command], Command]:
    """Options for fields of a configuration, whose types and defaults they take.

    `helps` has the help by the option as it is written, with the name of the field where that is
    another one, and the word for its value: `--workspace workspace_mib MIB`.
    """
    known = {item.name: item for item in fields(config)}
    options = []
    for words, text in helps.items():
        flags, *rest = words.split()
        name = flags.partition("/")[0].removeprefix("--").replace("-", "_")
        if rest and rest[0] in known:
            name = rest.pop(0)
        kind, default = str(known[name].type), known[name].default
        option = click.option(
            flags,
            name,
            type=next((found for word, found in _TYPES.items() if word in kind), None),
            multiple="tuple" in kind,
            is_flag=True if kind == "bool" else None,
            default=str(default) if isinstance(default, Range) else default,
            metavar=rest[0] if rest else None,
            help=text,
        )
        options.append(option)
    return option_group(*options)


def take(config: type[Config], given: dict[str, Any]) -> Config:
    """The configuration whose fields are among a command's parameters, taken out of `given`.

    Raises:
        InputError: a value that it refuses.
    """
    return config(**{item.name: given.pop(item.name) for item in fields(config)})  # type: ignore[arg-type]


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
    """Write `content` as JSON to a file, or to stdout for `-`; an InputError if it cannot be."""
    ascii_only = str(path) == "-" and not stdout_is_unicode()
    write_output(path, json.dumps(content, indent=2, ensure_ascii=ascii_only) + "\n")


def stdout_is_unicode() -> bool:
    """Whether stdout takes every character; where not, JSON is written with escapes."""
    return "utf" in (sys.stdout.encoding or "utf").lower()
