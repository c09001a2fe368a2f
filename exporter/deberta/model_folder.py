"""What a folder is: where the model in it lies, and what else it may be than a checkpoint."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from calibration.json_values import read_json
from exporter.errors import InputError

CONFIG, GLINER_CONFIG = "config.json", "gliner_config.json"
ADAPTER = "adapter_config.json"

_POINTER = b"version https://git-lfs.github.com/spec/"


def config_file(folder: Path) -> Path | None:
    """The configuration of the model in a folder: that of GLiNER counts where there are both."""
    found = (path for name in (GLINER_CONFIG, CONFIG) if (path := folder / name).exists())
    return next(found, None)


def find_model(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder that has the configuration of the model in `folder`, and what a user should know.

    It is `folder` itself, or that of the transformer inside a folder of sentence-transformers.

    Raises:
        InputError: there is none; the message says what the folder is, where that is known.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; a checkpoint is a folder with config.json")
    inside, others = _sentence_transformers(folder)
    if config_file(inside) is not None:
        notes = (f"{folder}: of sentence-transformers; the model in {inside.name} is taken",)
        left = (f"{folder}: only the transformer is exported, not {', '.join(others)}",)
        return inside, (notes if inside != folder else ()) + (left if others else ())
    below = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
    where = f"; there is one in {', '.join(below[:5])}" if below else ""
    raise InputError(f"{folder}: no config.json; is this a checkpoint folder?{where}")


def refuse_pointer(path: Path) -> None:
    """Raise an InputError where a file is what Git LFS leaves in the place of the real one."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
    except OSError:
        return  # whoever reads it says so
    if start == _POINTER:
        raise InputError(
            f"{path}: a pointer of Git LFS, not the file itself; run `git lfs pull` in its folder"
        )


def _sentence_transformers(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """Where `modules.json` says that the transformer is, and what comes after it."""
    path = folder / "modules.json"
    try:
        modules: Any = read_json(path) if path.exists() else []
        kinds = [(str(item["type"]).rpartition(".")[2], str(item["path"])) for item in modules]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path}: not a list of modules with type and path") from None
    inside = next((place for kind, place in kinds if kind == "Transformer"), "")
    if PurePosixPath(inside).is_absolute() or ".." in PurePosixPath(inside).parts:
        raise InputError(f"{path}: names {inside!r}, which is not a folder in it")
    return folder / inside, tuple(kind for kind, _ in kinds if kind != "Transformer")
