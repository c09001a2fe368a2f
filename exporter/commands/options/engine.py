"""The options of engine builds, for `deb-export build`."""

from __future__ import annotations

from typing import Any

import click

from exporter.artifact.engine_record import ATTENTIONS, EngineOptions
from exporter.commands.options.shared import config_options, option_group, take
from exporter.model.profile import ShapeProfile

engine_options = option_group(
    click.option(
        "--profile",
        "profiles",
        multiple=True,
        metavar="BATCHxSEQ",
        help="Shapes that engines are built for, as in 1,8,32x1,128,512; may be repeated.  "
        "[default: one profile of --batch and --seq]",
    ),
    click.option(
        "--compute-capability",
        "compute_capabilities",
        metavar="89,120",
        help="GPUs that the TensorRT-RTX engine is for.  [default: those that it builds for]",
    ),
    config_options(
        EngineOptions,
        {
            "--workspace workspace_mib MIB": "Limit of a kernel's scratch memory.  [default: the "
            "GPU's memory]",
            "--optimization-level 0-5": "How long to look for fast kernels.  [default: the "
            "builder's choice]",
            "--timing-cache": "File that measured kernels are kept in between builds (tensorrt).",
            "--version-compatible": "For newer versions too (tensorrt).",
            "--hardware-compatible": "For GPUs from Ampere on (tensorrt).",
            "--refittable": "Weights of the engine can be replaced.",
            "--strip-weights": "Leave the weights out of the engine.",
            f"--attention {'|'.join(ATTENTIONS)}": "How the attention gets into the engine.",
            "--tf32": "fp32 products may round their factors to 10 bits.",
        },
    ),
)


def take_engine_options(options: dict[str, Any]) -> tuple[EngineOptions, tuple[ShapeProfile, ...]]:
    """Take the options out of a command's parameters; an InputError for one out of range."""
    profiles = tuple(ShapeProfile.parse(text) for text in options.pop("profiles"))
    numbers = options["compute_capabilities"]
    numbers = () if numbers is None else EngineOptions.parse_capabilities(numbers)
    options["compute_capabilities"] = numbers
    return take(EngineOptions, options), profiles
