"""The command `deb-export`: subcommands, exit codes, and errors as one or two lines.

Exit codes: 0 all built and within limits; 1 parity outside its limits; 2 wrong usage or input;
3 a target's software or hardware is missing; 130 interrupted, 143 terminated; 70 a defect of ours.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from exporter.commands.bench import bench
from exporter.commands.build import build
from exporter.commands.doctor import doctor
from exporter.commands.engine import engine
from exporter.commands.inspect import inspect
from exporter.commands.options.shared import Settings, debug_option
from exporter.commands.package import package
from exporter.commands.parity import parity
from exporter.commands.run import run
from exporter.commands.score import score
from exporter.environment import package_version
from exporter.errors import DebExportError
from exporter.progress import CLEAR_LINE

PROGRAM = "deb-export"
DEFECT = 70
INTERRUPTED = 130
TERMINATED = 143
CLOSED_PIPE = 141

_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
_NO_MEMORY = ("can't allocate memory", "bad allocation", "std::bad_alloc", "not enough memory")


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    invoke_without_command=True,
)
@click.version_option(package_version(PROGRAM) or "unknown", prog_name=PROGRAM)
@debug_option
@click.pass_context
def cli(context: click.Context) -> int:
    """DeBERTa-v2/v3 from a training checkpoint to verified production inference."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
    return 2  # of a call without a subcommand; else the subcommand's own counts


for _command in (build, parity, run, score, bench, inspect, engine, package, doctor):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors become messages on stderr."""
    settings = Settings()
    _open_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _terminable(), _short_warnings():
            code = _invoke(given, settings)
            sys.stdout.flush()
            return code
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    except BaseException as error:
        return _report(error, settings)


def _invoke(arguments: list[str], settings: Settings) -> int:
    """Parse and run; click's own main would turn interrupts and closed pipes into exit code 1."""
    try:
        with cli.make_context(PROGRAM, arguments, obj=settings) as context:
            code = cli.invoke(context)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    return code if isinstance(code, int) else 0


def _open_streams() -> None:
    """Give the null device in the place of a stream that the caller has closed.

    Otherwise the next file that is opened takes its number, and is written over. What a terminal's
    encoding cannot show is shown as an escape.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            # The lowest free descriptor, which is its own.
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _report(error: BaseException, settings: Settings) -> int:
    """Say what went wrong, and give the exit code."""
    if isinstance(error, BrokenPipeError):
        # The reader has gone; nothing may be written when the interpreter flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    if settings.debug:
        traceback.print_exception(error)
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return _say("interrupted", INTERRUPTED)
    if isinstance(error, click.ClickException):
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
        hint = f"; see {where or PROGRAM} --help"
        return _say(f"error: {error.format_message().rstrip('.')}{hint}", 2)
    if isinstance(error, DebExportError):
        return _say(f"error: {error}", error.exit_code)
    if isinstance(error, MemoryError) or any(text in str(error) for text in _NO_MEMORY):
        return _say("error: not enough memory; use a machine with more, or a smaller --seq", 3)
    if isinstance(error, OSError) and error.errno in _STORAGE:
        place = f"{error.filename}: " if error.filename else ""
        return _say(f"error: {place}{error.strerror}", 2)
    if not settings.debug:
        traceback.print_exception(error)
    message = "error: this is a defect of deb-export; please report it with the lines above"
    return _say(message, DEFECT)


def _say(message: str, code: int) -> int:
    click.echo(message, err=True)
    return code


@contextmanager
def _short_warnings() -> Iterator[None]:
    """Show our own warnings as one line on stderr."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        clear = CLEAR_LINE if sys.stderr.isatty() else ""
        click.echo(f"{clear}warning: {message}", err=True)

    with warnings.catch_warnings():
        warnings.filterwarnings("always", module="exporter")
        warnings.showwarning = show
        yield


@contextmanager
def _terminable() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into an exception, so that nothing half-written is left."""

    def stop(*_: object) -> None:
        raise SystemExit(TERMINATED)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []  # only the main thread may set handlers
    old = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
