"""Options of a session, shared by the commands that run models."""

from __future__ import annotations

from typing import Any

import click

from exporter.commands.options.shared import FILE, option_group, take
from exporter.runtime.options import DEFAULTS, HINTS, PRECISIONS, RuntimeOptions

runtime_options = option_group(
    click.option(
        "--threads",
        type=int,
        help="Threads that compute a batch, on a CPU.  [default: $DEB_EXPORT_THREADS, or the "
        "physical cores within the container's limit]",
    ),
    click.option(
        "--tokens",
        type=int,
        help="Tokens of a batch of texts, padding counted.  [default: $DEB_EXPORT_TOKENS, or 512 "
        "a thread]",
    ),
    click.option(
        "--batch-texts",
        "batch",
        type=int,
        help="Texts of a batch.  [default: as many as the tokens allow; 32 on a GPU]",
    ),
    click.option(
        "--window",
        type=int,
        default=DEFAULTS.window,
        help="Texts sorted by length together, the most that are held in memory.",
    ),
    click.option(
        "--spinning/--no-spinning",
        default=None,
        help="Whether idle threads of ONNX Runtime wait busily.  [default: unless the container "
        "has a limit]",
    ),
    click.option(
        "--openvino-precision",
        "precision",
        metavar="|".join(PRECISIONS),
        help="Arithmetic of OpenVINO.  [default: the artifact's]",
    ),
    click.option(
        "--openvino-hint",
        "hint",
        metavar="|".join(HINTS),
        help="OpenVINO's aim: a batch with all threads, or several batches of texts at a time.  "
        "[default: latency]",
    ),
    click.option(
        "--openvino-cache",
        "cache",
        type=FILE,
        help="Folder where OpenVINO keeps compiled models.  [default: none]",
    ),
)


def take_runtime_options(given: dict[str, Any]) -> RuntimeOptions:
    """The options among a command's parameters, which are taken out of `given`.

    Raises:
        InputError: a value out of its range.
    """
    return RuntimeOptions(**take(RuntimeOptions, given))
