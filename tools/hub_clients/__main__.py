"""Other people's clients on the folders of `deb-export package --hub`, against our sessions.

    python -m tools.hub_clients --node FOLDER --python PYTHON ...

FOLDER is one where `npm install @huggingface/transformers` has been run; PYTHON the interpreter of
an environment with `optimum-onnx`, or with it and `sentence-transformers`. Builds every head with
random weights in fp32, fp16 and int8, one of them with its weights in files of their own, and
compares token ids and outputs. Prints a row for each head and precision, and an answer of each
pipeline; its exit code is 1 where a client differs, or fails.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from exporter.artifact.manifest import read_manifest
from exporter.deberta.configuration import DebertaConfig
from exporter.demo import checkpoint_folder
from exporter.model.task import Task
from exporter.packaging.hub import GRAPHS, package_hub
from exporter.packaging.load_examples import OPTIMUM, PIPELINES
from exporter.pipeline.build_artifact import build
from exporter.pipeline.config import BuildConfig
from exporter.runtime.load import load
from tools.random_configurations import write_random

HERE = Path(__file__).parent
TOLERANCE = {"fp32": 1e-5, "fp16": 2e-3, "int8": 1e-3}
"""Largest difference of an output, relative to its largest value. Clients bring an ONNX Runtime of
their own, which may sum fp16 and int8 in another order."""
DTYPES = {"fp32": "fp32", "fp16": "fp16", "int8": "q8"}
TEXTS = (
    "A joy from start to end.",
    "I want my money back, and the [SEP] too",
    "Größe  und\u00a0Gewicht sind in Ordnung 👍, ｃａｍｅｒａ 1,000!",
    "It broke. " * 60,
)
PASSAGE = "Ada Lovelace wrote the first program, and nobody ran it for a hundred years."


@dataclass(frozen=True)
class Head:
    """A model to try: its head, fields of its config.json, and how it is built and asked."""

    name: str
    task: Task
    labels: tuple[str, ...] = ()
    external_data: bool = False
    pipeline: str = ""
    candidates: tuple[str, ...] = ()
    paired: bool = False

    @property
    def texts(self) -> list[tuple[str, str | None]]:
        """What the clients are given."""
        masked = " [MASK]" if self.task is Task.MASKED_LM else ""
        return [(f"{text}{masked}", PASSAGE if self.paired else None) for text in TEXTS]


HEADS = (
    Head("base", Task.BASE),
    Head("masked-lm", Task.MASKED_LM),
    Head("classifier", Task.SEQUENCE_CLASSIFICATION, ("bad", "so so", "good"), external_data=True),
    Head("inference", Task.SEQUENCE_CLASSIFICATION, ("contradiction", "neutral", "entailment"),
         pipeline="zero-shot-classification", candidates=("sports", "weather")),
    Head("reranker", Task.SEQUENCE_CLASSIFICATION, ("relevance",), paired=True),
    Head("entities", Task.TOKEN_CLASSIFICATION, ("O", "B-PER", "I-PER")),
    Head("answers", Task.QUESTION_ANSWERING, paired=True),
    Head("choices", Task.MULTIPLE_CHOICE),
)  # fmt: skip


def make_hub(head: Head, folder: Path) -> tuple[Path, dict[str, Path]]:
    """The hub folder of a head, and its artifacts by precision."""
    demo = json.loads((checkpoint_folder() / "config.json").read_text())
    fields = {**demo, "num_hidden_layers": 2}
    if head.labels:
        fields["id2label"] = {str(index): label for index, label in enumerate(head.labels)}
    elif head.task is not Task.SEQUENCE_CLASSIFICATION:
        fields = {name: value for name, value in fields.items() if "label" not in name}
    fields["architectures"] = [f"DebertaV2{_CLASS[head.task]}"]
    DebertaConfig.from_dict(dict(fields))
    source = folder / "checkpoint"
    source.mkdir(parents=True)
    write_random(source, fields, head.task, 0.05, seed=len(head.name))
    made = {}
    for precision in TOLERANCE:
        made[precision] = folder / precision
        config = BuildConfig(source, made[precision], precision=precision, targets=("onnx",),
                             external_data=head.external_data)  # fmt: skip
        assert build(config).passed, (head.name, precision)
    target = folder / f"hub-{head.name}"
    package_hub([(path, read_manifest(path)) for path in made.values()], target)
    return target, made


_CLASS = {
    Task.BASE: "Model",
    Task.MASKED_LM: "ForMaskedLM",
    Task.SEQUENCE_CLASSIFICATION: "ForSequenceClassification",
    Task.TOKEN_CLASSIFICATION: "ForTokenClassification",
    Task.QUESTION_ANSWERING: "ForQuestionAnswering",
    Task.MULTIPLE_CHOICE: "ForMultipleChoice",
}


def expected(head: Head, artifact: Path) -> list[dict[str, Any]]:
    """What our session gives for the texts of a head, each alone."""
    found = []
    with load(artifact) as session:
        assert session.text is not None
        for text, pair in head.texts:
            tokenizer = session.text.tokenizer
            encoding = tokenizer.encode(text, pair, max_length=session.text.max_length)
            ids, types = np.array([encoding.input_ids]), np.array([encoding.token_type_ids])
            if head.task is Task.MULTIPLE_CHOICE:
                ids, types = ids[:, None], types[:, None]
            outputs = session.run(input_ids=ids, token_type_ids=types)
            found.append({"ids": list(encoding.input_ids), "outputs": outputs})
    return found


def jobs_of(head: Head, hub: Path) -> list[dict[str, Any]]:
    """What a client is to do with a head, once for each precision."""
    return [
        {
            "folder": str(hub),
            "file": f"onnx/{GRAPHS[precision]}",
            "task": head.task.value,
            "dtype": DTYPES[precision],
            "pipeline": head.pipeline or PIPELINES[head.task],
            "optimum": OPTIMUM[head.task],
            "labels": list(head.candidates),
            "reranker": head.labels == ("relevance",),
            "texts": head.texts,
        }
        for precision in TOLERANCE
    ]


def differences(
    found: Sequence[Mapping[str, Any]], wanted: Sequence[Mapping[str, Any]]
) -> Iterator[float | str]:
    """The largest difference of each text's outputs, or what else is wrong."""
    for got, want in zip(found, wanted, strict=True):
        if "ids" in got and got["ids"] != want["ids"]:
            yield f"other ids: {got['ids'][:12]} instead of {want['ids'][:12]}"
            continue
        for name, values in want["outputs"].items():
            other = np.array(got["outputs"][name], np.float32)
            if other.shape != values.shape:
                yield f"{name} is {other.shape} instead of {values.shape}"
            else:
                yield float(np.abs(other - values).max() / np.abs(values).max())


def ask(command: Sequence[str], jobs: list[dict[str, Any]], where: Path | None) -> dict[str, Any]:
    """What a client found; a RuntimeError with its last words where it failed."""
    done = subprocess.run(
        command, input=json.dumps(jobs), capture_output=True, text=True, cwd=where, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-1500:])
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> int:
    """Build, ask, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--node", type=Path, help="where transformers.js is installed")
    parser.add_argument("--python", type=Path, action="append", default=[])
    parser.add_argument("--head", action="append", choices=[head.name for head in HEADS])
    arguments = parser.parse_args()
    script = str(HERE / "peers" / "optimum_client.py")
    clients: list[tuple[list[str], Path | None]] = []
    clients += [([str(python), script], None) for python in arguments.python]
    if arguments.node is not None:
        clients.append((["node", str(HERE / "peers" / "transformers_js.mjs")], arguments.node))
    bad = False
    for head in (item for item in HEADS if item.name in (arguments.head or [item.name])):
        with tempfile.TemporaryDirectory() as place:
            hub, artifacts = make_hub(head, Path(place))
            wanted = [expected(head, artifact) for artifact in artifacts.values()]
            for command, where in clients:
                if command[0] == "node" and head.task is Task.MULTIPLE_CHOICE:
                    continue  # it has no class for it
                answer = ask(command, jobs_of(head, hub), where)
                for precision, got, want in zip(TOLERANCE, answer["found"], wanted, strict=True):
                    seen = list(differences(got, want))
                    wrong = [item for item in seen if isinstance(item, str)]
                    worst = max((item for item in seen if isinstance(item, float)), default=0.0)
                    failed = bool(wrong) or worst > TOLERANCE[precision]
                    bad |= failed
                    text = "; ".join(wrong) or f"{worst:.1e}"
                    mark = "FAIL" if failed else "ok"
                    print(f"| {head.name} | {precision} | {answer['client']} | {text} | {mark} |",
                          flush=True)  # fmt: skip
                    if precision == "fp32" and "pipeline" in got[0]:
                        print(f"  {json.dumps(got[0]['pipeline'], ensure_ascii=False)[:160]}")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
