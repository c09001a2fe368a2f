"""Names under which tensors are stored, and the model's own: the tables, and what reads them.

A bare name is the model's own without `deberta.`, which the models with a head put before the names
of the backbone: `encoder.layer.0.output.dense.weight`, `classifier.weight`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from exporter.deberta.configuration import DebertaConfig
from exporter.errors import InputError
from exporter.model.task import Task

BACKBONE = "deberta."
ANCHOR = "embeddings.word_embeddings.weight"
"""Every model has it: what stands before it is a prefix of the code that trained the model, such as
`module.` (DDP), `_orig_mod.` (torch.compile) and `model.` (Lightning), and is stripped."""

RENAMED = {
    r"(^|\.)LayerNorm\.gamma$": r"\1LayerNorm.weight",
    r"(^|\.)LayerNorm\.beta$": r"\1LayerNorm.bias",
}
"""Older spellings, and what they are now."""

TIED = {
    "cls.predictions.decoder.bias": "cls.predictions.bias",
    "cls.predictions.decoder.weight": ANCHOR,
}
"""Tensors of the legacy masked LM head, and where each is found when it is not stored itself: as
`_tied_weights_keys` of transformers; the weight only with `tie_word_embeddings`."""

HEADS = {
    Task.MASKED_LM: ({"cls"}, {"lm_predictions"}),
    Task.SEQUENCE_CLASSIFICATION: ({"pooler", "classifier"},),
    Task.MULTIPLE_CHOICE: ({"pooler", "classifier"},),
    Task.TOKEN_CLASSIFICATION: ({"classifier"},),
    Task.QUESTION_ANSWERING: ({"qa_outputs"},),
}
"""First parts of the bare names of each task's head, in each of its forms."""

HINTS = (
    ("cls.", r"^lm_predictions\.", 'the head is of the newer form: set "legacy": false in it'),
    ("lm_predictions.", r"^cls\.", 'the head is of the older form: set "legacy": true in it'),
    ("", r"\.(base_layer|lora_A|lora_B)\.", "the weights are of a PEFT model: save it with "
     "merge_and_unload(), or give the folder of its adapter"),
    ("", r"\.attention\.self\.in_proj\.", "the weights are of DeBERTa v1, another architecture"),
    ("", r"\.weight\.(absmax|quant_map|SCB)$|\.(qweight|SCB)$", "the weights are quantized "
     "(bitsandbytes, GPTQ): save them in a float type"),
)  # fmt: skip
"""What is missing begins with the first, what is stored matches the second: what it means."""


def strip_prefix(names: Iterable[str], where: str) -> str:
    """What all names begin with before the model's own, `""` as a rule.

    Raises:
        InputError: only some do; the message says `where` they are.
    """
    names = tuple(names)
    before = {name.removesuffix(ANCHOR) for name in names if f".{name}".endswith(f".{ANCHOR}")}
    prefix = min((found.removesuffix(BACKBONE) for found in before), default="")
    others = [name for name in names if not name.startswith(prefix)]
    if others:
        raise InputError(
            f"{where}: {len(names) - len(others)} of {len(names)} tensors begin with {prefix!r}, "
            f"{named(others)} not; save the state dict of one model"
        )
    return prefix


def bare_names(names: Iterable[str], prefix: str) -> dict[str, str]:
    """Bare name -> stored name, for names that begin with `prefix`.

    Where two are the same, that of today's spelling counts, and the other keeps its stored name.
    """
    found: dict[str, str] = {}
    bare = {name: _bare(name.removeprefix(prefix)) for name in names}
    for name in sorted(bare, key=lambda name: not name.endswith(bare[name])):
        found[name if bare[name] in found else bare[name]] = name
    return found


def _bare(name: str) -> str:
    for pattern, spelling in RENAMED.items():
        name = re.sub(pattern, spelling, name)
    return name.removeprefix(BACKBONE)


def infer_task(config: DebertaConfig, shapes: Mapping[str, tuple[int, ...]]) -> Task:
    """The task whose head the weights hold, by their bare names; the base model without any.

    Raises:
        InputError: they hold several heads, or one that several tasks have.
    """
    known = {part for forms in HEADS.values() for form in forms for part in form}
    parts = {name.partition(".")[0] for name in shapes} & known
    if parts <= {"pooler"}:
        return Task.BASE
    tasks = [task for task, forms in HEADS.items() if parts in forms]
    if "lm_predictions" in parts and config.legacy:
        tasks = []  # what v2 and v3 were published with: few want it, and none by accident
    if len(tasks) > 1:
        # A classifier of one row fits a configuration of several labels as that of choices alone.
        rows = shapes.get("classifier.bias", (0,))[0]
        choices = rows == 1 and config.num_labels > 1
        tasks = [Task.MULTIPLE_CHOICE if choices else Task.SEQUENCE_CLASSIFICATION]
    if not tasks:
        raise InputError(
            f"config.json names no architectures, and the weights have {', '.join(sorted(parts))}; "
            f"choose the head with --task, one of {', '.join(Task)}"
        )
    return tasks[0]


def hints(missing: Iterable[str], stored: Iterable[str]) -> tuple[str, ...]:
    """What missing and stored bare names mean together."""
    missing, stored = tuple(missing), tuple(stored)
    return tuple(
        text
        for begins, pattern, text in HINTS
        if any(name.startswith(begins) for name in missing)
        and any(re.search(pattern, name) for name in stored)
    )


def named(names: Iterable[str], most: int = 20) -> str:
    """The names for a message; of more than `most` those that differ in numbers alone as one."""
    names = tuple(names)
    if len(names) > most:
        alike: dict[str, int] = {}
        for name in names:
            pattern = re.sub(r"(?<=\.)\d+(?=\.)", "*", name)
            alike[pattern] = alike.get(pattern, 0) + 1
        names = tuple(f"{name} ({n})" if n > 1 else name for name, n in alike.items())
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
