"""Sentences per second on real text: `session(texts)` beside batches in file order.

The sentences come with the lengths that they have. Ours sorts windows of texts by length and fills
batches by tokens; the other way takes so many texts at a time in the order of the file and pads
each batch to its longest member. Both are the same session in the same process, from text to
predictions, in turn; their predictions must agree before a time counts.

    python -m benchmarks.cpu_traffic --sentences FILE.tsv --model v3-base --threads 1
    python -m benchmarks.cpu_traffic --sentences FILE.tsv --model demo --count 4096 --threads 1

FILE has tab-separated columns with a header, one of them `text`. v3-base has random weights and the
demo's tokenizer. Rows go to `benchmarks/results/cpu_traffic.csv`.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.export import COMMON, SHAPES
from exporter.deberta.checkpoint import open_checkpoint
from exporter.deberta.configuration import DebertaConfig
from exporter.deberta.heads import make_model
from exporter.demo import checkpoint_folder
from exporter.environment import processor_name
from exporter.graph.export import export_onnx
from exporter.inputs.encode import collate
from exporter.model.task import Task
from exporter.predictions.decode import decode
from exporter.predictions.predicted import Prediction
from exporter.runtime.batching import Batching, batches
from exporter.runtime.load import text_encoder
from exporter.runtime.providers.onnx_session import OnnxSession
from exporter.runtime.providers.openvino_session import OpenVinoSession
from exporter.runtime.runtime_options import RuntimeOptions
from exporter.runtime.session import Session

RESULTS = Path(__file__).parent / "results" / "cpu_traffic.csv"
TASK = Task.SEQUENCE_CLASSIFICATION
FILE_ORDER = (8, 16, 32, 64)
TOKENS = (128, 256, 512, 1024, 2048)
AGREEMENT = 1e-4  # of a probability; batches of other shapes sum in another order
RUNTIMES: dict[str, Callable[..., Session]] = {"cpu": OnnxSession, "openvino": OpenVinoSession}


def read_sentences(path: Path, count: int) -> list[str]:
    """So many texts evenly spaced over the file, in its order."""
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        texts = [row["text"] for row in reader]
    count = min(count, len(texts))
    return [texts[index * len(texts) // count] for index in range(count)]


def make_checkpoint(model: str, folder: Path) -> Path:
    """The demo's checkpoint, or random weights of a published shape with the demo's tokenizer."""
    demo = checkpoint_folder()
    if model == "demo":
        return demo
    from safetensors.torch import save_file

    folder.mkdir()
    for file in demo.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            shutil.copyfile(file, folder / file.name)
    given = json.loads((demo / "config.json").read_text())
    names = ("vocab_size", "architectures", "id2label", "label2id", "pad_token_id", "model_type")
    fields = {**COMMON, **SHAPES[model], **{name: given[name] for name in names if name in given}}
    fields |= {"max_position_embeddings": 512, "type_vocab_size": 0}
    (folder / "config.json").write_text(json.dumps(fields))
    torch.manual_seed(0)
    built = make_model(DebertaConfig.from_dict(fields), TASK)
    state = {}
    for name, value in built.state_dict().items():
        noise = torch.randn(value.shape) * 0.02
        state[name] = noise + 1.0 if name.endswith("LayerNorm.weight") else noise
    save_file(state, folder / "model.safetensors")
    return folder


def in_file_order(session: Session, texts: list[str], size: int) -> list[Prediction]:
    """Predictions from batches of so many texts in their order, padded to the longest."""
    assert session.text is not None
    found = []
    for start in range(0, len(texts), size):
        examples = [session.text.encode(text) for text in texts[start : start + size]]
        outputs = session.run(**collate(examples, session.shape))
        for row, example in enumerate(examples):
            part = {name: values[row] for name, values in outputs.items()}
            found.append(decode(session.shape, session.text.tokenizer, [example], [part]))
    return found


def by_tokens(session: Session, texts: list[str], tokens: int) -> list[Prediction]:
    """What `session(texts)` gives with a budget of so many tokens a batch."""
    session.batching = Batching(tokens, tokens, session.batching.window)
    return session(texts)


def padded_tokens(session: Session, texts: list[str], way: str, size: int) -> tuple[int, int]:
    """Positions computed, padding counted, and the number of batches."""
    assert session.text is not None
    examples = [session.text.encode(text) for text in texts]
    if way == "file order":
        groups = [
            list(range(start, min(start + size, len(texts))))
            for start in range(0, len(texts), size)
        ]
    else:
        window = session.batching.window
        bounds = replace(session.batching, tokens=size, largest=size)
        groups = [
            [start + index for index in group]
            for start in range(0, len(texts), window)
            for group in batches(examples[start : start + window], session.shape, bounds)
        ]
    sizes = (len(group) * max(examples[i].length for i in group) for group in groups)
    return sum(sizes), len(groups)


def scores(predictions: list[Prediction]) -> dict[str, list[float]]:
    """The score of each label, by text and label."""
    found: dict[str, list[float]] = {}
    for index, prediction in enumerate(predictions):
        for label in prediction.labels:  # type: ignore[union-attr]
            found.setdefault(label.label, [0.0] * len(predictions))[index] = label.score
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sentences", type=Path, required=True)
    parser.add_argument("--model", choices=["demo", *SHAPES], default="v3-base")
    parser.add_argument("--provider", choices=list(RUNTIMES), default="cpu")
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    texts = read_sentences(arguments.sentences, arguments.count)

    with tempfile.TemporaryDirectory() as scratch:
        folder = make_checkpoint(arguments.model, Path(scratch) / "checkpoint")
        checkpoint = open_checkpoint(folder, TASK)
        graph = Path(scratch) / "model.onnx"
        export_onnx(checkpoint, graph)
        shape = checkpoint.config.shape(TASK)
        encoder = text_encoder(folder, TASK, 512)
        options = RuntimeOptions(threads=arguments.threads)
        with RUNTIMES[arguments.provider](graph, shape, encoder, options) as session:
            rows = measure(session, texts, arguments)
    write(rows)
    for row in rows:
        print(
            f"{row['way']:10} {row['size']:5} {row['sentences_per_s']:8} sentences/s, "
            f"{row['speedup']:5} times, padding {row['padded_ratio']}"
        )


def measure(
    session: Session, texts: list[str], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row for each way and size."""
    ways = [("file order", size) for size in FILE_ORDER] + [("tokens", size) for size in TOKENS]
    run = {"file order": in_file_order, "tokens": by_tokens}
    expected = scores(run[ways[0][0]](session, texts, ways[0][1]))
    for way, size in ways[1:]:
        found = scores(run[way](session, texts, size))
        worst = max(
            abs(a - b)
            for label in expected
            for a, b in zip(expected[label], found[label], strict=True)
        )
        if worst > AGREEMENT:
            raise SystemExit(f"{way} {size}: predictions differ by {worst:.2e}")
    seconds: dict[tuple[str, int], list[float]] = {way: [] for way in ways}
    for number in range(arguments.rounds):
        turn = number % len(ways)
        for way, size in ways[turn:] + ways[:turn]:
            start = time.perf_counter()
            run[way](session, texts, size)
            seconds[way, size].append(time.perf_counter() - start)
    assert session.text is not None
    valid = sum(session.text.encode(text).length for text in texts)
    base = seconds["file order", 32]
    rows = []
    for way, size in ways:
        positions, count = padded_tokens(session, texts, way, size)
        took = seconds[way, size]
        rows.append(
            {
                "date": datetime.now(timezone.utc).date().isoformat(),
                "model": arguments.model,
                "runtime": session.name,
                "threads": arguments.threads,
                "sentences": len(texts),
                "tokens": valid,
                "way": way,
                "size": size,
                "batches": count,
                "padded_ratio": round(positions / valid, 3),
                "rounds": arguments.rounds,
                "median_s": round(statistics.median(took), 3),
                "min_s": round(min(took), 3),
                "max_s": round(max(took), 3),
                "sentences_per_s": round(len(texts) / statistics.median(took), 2),
                # Of the same round, so that the machine's other work falls on both.
                "speedup": round(
                    statistics.median(b / t for b, t in zip(base, took, strict=True)), 3
                ),
                "cpu": processor_name(),
                "onnxruntime": version("onnxruntime"),
                "openvino": version("openvino"),
            }
        )
    return rows


def write(rows: list[dict[str, Any]]) -> None:
    """Add rows to the results."""
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
