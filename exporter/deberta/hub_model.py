"""A model by its name on the Hugging Face hub, through `huggingface_hub`.

Cache, token, endpoint and offline mode are as that library has them (`HF_HUB_CACHE`, `HF_TOKEN`,
`HF_ENDPOINT`, `HF_HUB_OFFLINE`).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from exporter.deberta.model_folder import ADAPTER, CONFIG
from exporter.deberta.tokenization import TOKENIZER_FILES
from exporter.errors import InputError, MissingDependencyError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SMALL = {CONFIG, ADAPTER, "modules.json", *TOKENIZER_FILES}
_WEIGHTS = tuple(
    tuple(re.compile(rf"(?:{stem})(-\d+-of-\d+)?\.{ending}(\.index\.json)?") for ending in endings)
    for stem, endings in (
        ("model|pytorch_model", ("safetensors", "bin")),
        ("adapter_model", ("safetensors", "bin")),
    )
)
"""Of a model and of an adapter, the formats in the order in which they are read."""


@dataclass(frozen=True)
class LocalModel:
    """A model's folder on this machine; `hub` and `commit` where it came from, else empty."""

    folder: Path
    hub: str = ""
    commit: str = ""


def is_hub_name(model: Path) -> bool:
    """Whether `model` can only be a name on the hub, `org/name`: nothing is there."""
    return not model.exists() and _NAME.fullmatch(model.as_posix()) is not None


def local_model(model: Path, revision: str | None = None) -> LocalModel:
    """The folder `model`, or that of the hub's model of this name, fetched where it is not cached.

    Only the files that a build reads are fetched. Where the hub cannot be reached, what is cached
    is used, with a warning.

    Args:
        model: a folder, or `org/name`.
        revision: branch, tag or commit on the hub; its default branch for None.

    Raises:
        InputError: neither a folder nor a model of the hub, or one that cannot be reached.
        MissingDependencyError: `huggingface_hub` is not installed.
    """
    name = model.as_posix()
    if not is_hub_name(model):
        if revision is not None:
            raise InputError(f"--revision {revision}: {model} is no name on the hub; leave it out")
        return LocalModel(model)
    if find_spec("huggingface_hub") is None:
        raise MissingDependencyError(
            f"{name}: no such folder; for a model of that name on the hub, "
            'pip install "deb-export[hub]"'
        )
    import huggingface_hub
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    place = f"{name}: no such folder, and {ENDPOINT}"
    at = revision or "its default branch"
    try:
        found = huggingface_hub.HfApi().model_info(name, revision=revision)
        files = sorted(_wanted(item.rfilename for item in found.siblings or ()))
        folder = huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=files)
    except GatedRepoError:
        raise InputError(f"{place} gives it to those alone who were granted access") from None
    except RevisionNotFoundError:
        raise InputError(f"{place} has no revision {revision!r} of it") from None
    except (RepositoryNotFoundError, EntryNotFoundError, HFValidationError):
        raise InputError(f"{place} has no such model, or it is private: set HF_TOKEN") from None
    except Exception as error:  # its transports raise errors of their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        cached = _cached(huggingface_hub, name, revision)
        if cached is None:
            raise InputError(f"{place} cannot be reached ({reason}); nothing of it ({at}) is "
                             "cached") from None  # fmt: skip
        warnings.warn(f"{name}: the hub cannot be reached; the cached {cached.name[:12]} is used",
                      stacklevel=2)  # fmt: skip
        folder = str(cached)
    return LocalModel(Path(folder), name, Path(folder).name)


def _wanted(files: Iterable[str]) -> Iterator[str]:
    """Of a repository's files those that a build reads: one format of the weights."""
    folders: dict[str, list[str]] = {}
    for file in files:
        path = PurePosixPath(file)
        # The transformer of sentence-transformers may lie in a folder.
        if len(path.parts) <= 2:
            folders.setdefault(str(path.parent), []).append(path.name)
    for folder, names in folders.items():
        if folder != "." and CONFIG not in names:
            continue
        chosen = [name for name in names if name in _SMALL]
        for formats in _WEIGHTS:
            found = ([name for name in names if one.fullmatch(name)] for one in formats)
            chosen += next(filter(None, found), [])
        yield from (name if folder == "." else f"{folder}/{name}" for name in chosen)


def _cached(library: Any, name: str, revision: str | None) -> Path | None:
    """The folder of what was fetched earlier, None where there is nothing."""
    for file in (CONFIG, ADAPTER, "modules.json"):
        path = library.try_to_load_from_cache(name, file, revision=revision)
        if isinstance(path, str):
            return Path(path).parent
    return None
