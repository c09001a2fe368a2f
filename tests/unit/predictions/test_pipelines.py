"""Predictions of sessions against the pipelines of transformers on the demo's own texts."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.checkpoints import write_checkpoint
from support.tokenizer_files import write_tokenizer_files

from exporter.deberta.checkpoint import open_checkpoint
from exporter.deberta.tokenization import load_tokenizer
from exporter.errors import InputError
from exporter.inputs.encode import TextEncoder
from exporter.inputs.text_files import demo_texts
from exporter.model.task import Task
from exporter.predictions.predicted import LabelPrediction, TokenPrediction, VectorPrediction
from exporter.predictions.prediction_options import PredictionOptions
from exporter.runtime.providers.torch_session import TorchSession
from exporter.runtime.session import TruncationWarning

transformers = pytest.importorskip("transformers")
TEXTS = [line for line in demo_texts().read_text(encoding="utf-8").splitlines() if line][:240]
LENGTH = 160
BIO = {"0": "O", "1": "B-PER", "2": "I-PER", "3": "B-LOC", "4": "I-LOC"}
NLI = {"0": "ENTAILMENT", "1": "neutral", "2": "contradiction"}

MakeFolder = Callable[..., Path]


@pytest.fixture(scope="module")
def make_folder(tmp_path_factory: pytest.TempPathFactory) -> MakeFolder:
    def make(task: str, **changes: Any) -> Path:
        folder = tmp_path_factory.mktemp("pipelines") / task
        if "id2label" in changes:
            changes["label2id"] = {label: int(i) for i, label in changes["id2label"].items()}
        write_checkpoint(folder, task, tokenizer=False, vocab_size=1700, **changes)
        write_tokenizer_files(folder / "files")
        for path in (folder / "files").iterdir():
            if path.name != "spm.model":
                shutil.copy(path, folder)
        return folder

    return make


@contextmanager
def opened(folder: Path, task: str, length: int = LENGTH) -> Iterator[TorchSession]:
    checkpoint = open_checkpoint(folder, Task(task))
    with TorchSession(checkpoint, TextEncoder(load_tokenizer(folder), Task(task), length)) as made:
        yield made


def pipeline(name: str, folder: Path, **options: Any) -> Any:
    model = {
        "token-classification": transformers.DebertaV2ForTokenClassification,
        "feature-extraction": transformers.DebertaV2Model,
    }.get(name, transformers.DebertaV2ForSequenceClassification)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        model_max_length=LENGTH,
        **{f"{n}_token": f"[{n.upper()}]" for n in ("pad", "cls", "sep", "unk", "mask")},
    )
    loaded = model.from_pretrained(folder).eval()
    return transformers.pipeline(name, model=loaded, tokenizer=tokenizer, **options)


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_entities_are_those_of_the_pipeline(strategy: str, make_folder: MakeFolder) -> None:
    folder = make_folder("token-classification", id2label=BIO)
    theirs = pipeline("token-classification", folder, aggregation_strategy=strategy)
    # The pipeline knows no words: to it a token without a space before it is a part of one, unless
    # the vocabulary lacks it; and what follows a lone word mark begins one.
    tokenizer = load_tokenizer(folder)
    names = tokenizer.convert_ids_to_tokens(range(tokenizer.vocab_size))
    apart = {tokenizer.unk_token_id, names.index("▁")}
    with opened(folder, "token-classification") as session:
        texts = [t for t in TEXTS if t.isprintable() and "\t" not in t]
        if strategy not in ("none", "simple"):
            texts = [t for t in texts if not apart & set(tokenizer.encode(t).input_ids)]
        assert len(texts) > 60
        options = PredictionOptions(aggregation=strategy)
        entities = 0
        for text, found in zip(texts, session(texts, options), strict=True):
            assert isinstance(found, TokenPrediction)
            made = [m for m in theirs(text) if text[m["start"] : m["end"]].strip()]
            entities += len(made)
            ours = [(e.label, e.text, e.end, e.score) for e in found.entities]
            wanted = [
                (
                    item.get("entity_group", item.get("entity")),
                    text[item["start"] : item["end"]].strip(),
                    len(text[: item["end"]].rstrip()),
                    pytest.approx(float(item["score"]), rel=1e-5),
                )
                for item in made
            ]
            assert ours == wanted, text
        assert entities > 300


def test_entities_of_a_long_text_are_those_of_the_whole_one(
    make_folder: MakeFolder, recwarn: pytest.WarningsRecorder
) -> None:
    """Windows see most of what the whole text shows; no entity is cut or doubled by a border."""
    folder = make_folder("token-classification", id2label=BIO)
    text = " ".join(TEXTS[:60])
    with opened(folder, "token-classification") as session:
        (long,) = session([text], PredictionOptions(stride=40))
    assert not recwarn.list
    assert isinstance(long, TokenPrediction)
    assert not long.truncated and long.tokens_read == long.tokens_total > 3 * LENGTH
    spans = [(token.start, token.end) for token in long.tokens]
    assert spans == sorted(spans)
    with opened(folder, "token-classification", 4096) as whole:
        (wanted,) = whole([text])
    assert isinstance(wanted, TokenPrediction)
    assert [t.start for t in wanted.tokens] == [t.start for t in long.tokens]
    ends = [entity.end for entity in long.entities]
    assert all(a.start >= b for a, b in zip(long.entities[1:], ends, strict=False))


@pytest.mark.parametrize("multi_label", [False, True])
def test_zero_shot_is_that_of_the_pipeline(multi_label: bool, make_folder: MakeFolder) -> None:
    folder = make_folder("sequence-classification", id2label=NLI)
    theirs = pipeline("zero-shot-classification", folder)
    labels, template = ["sports", "the weather", "a film"], "It is about {}."
    options: dict[str, Any] = {"multi_label": multi_label}
    with opened(folder, "sequence-classification") as session:
        ours = list(session.zero_shot(TEXTS[:60], labels, hypothesis=template, **options))
    for text, found in zip(TEXTS, ours, strict=False):
        made = theirs(text, labels, hypothesis_template=template, **options)
        assert found.text == text
        assert [label.label for label in found.labels] == made["labels"]
        assert [label.score for label in found.labels] == pytest.approx(made["scores"], rel=1e-5)
        assert (found.entailment, found.multi_label) == ("ENTAILMENT", multi_label)


def test_zero_shot_needs_labels_of_inference(make_folder: MakeFolder) -> None:
    folder = make_folder("sequence-classification")
    refused = pytest.raises(InputError, match="labels entailment and contradiction")
    with opened(folder, "sequence-classification") as session, refused:
        list(session.zero_shot(["a"], ["b"]))
    folder = make_folder("sequence-classification", id2label=NLI)
    with opened(folder, "sequence-classification") as session:
        with pytest.raises(InputError, match=r"write \{\} once"):
            list(session.zero_shot(["a"], ["b"], hypothesis="no place"))
        with pytest.raises(InputError, match="one label or more"):
            list(session.zero_shot(["a"], []))
        with pytest.warns(TruncationWarning, match="text cut"):
            (found,) = session.zero_shot(["word " * 400], ["b"])
        assert (found.truncated, found.tokens_read) == (True, LENGTH)


def test_labels_are_those_of_the_pipeline(make_folder: MakeFolder) -> None:
    folder = make_folder("sequence-classification", id2label=NLI)
    theirs = pipeline("text-classification", folder, top_k=None)
    with opened(folder, "sequence-classification") as session:
        for text, found in zip(TEXTS[:100], session(TEXTS[:100]), strict=True):
            assert isinstance(found, LabelPrediction)
            (made,) = theirs([text])
            assert [label.label for label in found.labels] == [item["label"] for item in made]
            scores = [item["score"] for item in made]
            assert [label.score for label in found.labels] == pytest.approx(scores, rel=1e-5)
        two = session(TEXTS[:5], PredictionOptions(top_k=2, threshold=0.3))
    for found in two:
        assert isinstance(found, LabelPrediction)
        assert len(found.labels) <= 2 and all(label.score >= 0.3 for label in found.labels)


@pytest.mark.parametrize("how", ["max", "mean"])
def test_windows_of_a_long_text_to_classify(how: str, make_folder: MakeFolder) -> None:
    folder = make_folder("sequence-classification", id2label=NLI)
    text = " ".join(TEXTS[:40])
    with opened(folder, "sequence-classification") as session:
        assert session.text is not None
        (found,) = session([text], PredictionOptions(windows=how, stride=20))
        parts = [window.rows[0].input_ids for window in session.text.windows(text, 20)]
        each = [session.run(input_ids=[ids])["logits"][0] for ids in parts]
    assert isinstance(found, LabelPrediction)
    assert len(parts) > 2 and not found.truncated
    assert sum(len(ids) for ids in parts) > found.tokens_total
    probabilities = np.exp(each) / np.exp(each).sum(axis=1, keepdims=True)
    wanted = dict(zip(NLI.values(), getattr(probabilities, how)(axis=0), strict=True))
    assert {label.label: label.score for label in found.labels} == pytest.approx(wanted, rel=1e-5)


def test_a_ranking_has_the_scores_of_the_pairs(make_folder: MakeFolder) -> None:
    folder = make_folder("sequence-classification", num_labels=1)
    passages = TEXTS[:30]
    theirs = pipeline("text-classification", folder, function_to_apply="sigmoid")
    with opened(folder, "sequence-classification") as session:
        found = session.rerank("a good film", passages, top_k=7)
        assert session.rerank("a good film", []) == []
    made = [theirs({"text": "a good film", "text_pair": passage})["score"] for passage in passages]
    best = sorted(range(30), key=lambda index: -made[index])[:7]
    assert [item.index for item in found] == best
    assert [item.passage for item in found] == [passages[index] for index in best]
    assert [item.score for item in found] == pytest.approx([made[i] for i in best], rel=1e-5)
    two = make_folder("sequence-classification")
    refused = pytest.raises(InputError, match="rerank needs a classifier with one label")
    with opened(two, "sequence-classification") as session, refused:
        session.rerank("a", ["b"])


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [False, True])
def test_vectors_are_pooled_features(
    pooling: str, normalize: bool, make_folder: MakeFolder
) -> None:
    folder = make_folder("base")
    theirs = pipeline("feature-extraction", folder)
    options = PredictionOptions(pooling=pooling, normalize=normalize)
    with opened(folder, "base") as session:
        for text, found in zip(TEXTS[:20], session(TEXTS[:20], options), strict=True):
            assert isinstance(found, VectorPrediction)
            features = np.array(theirs(text)[0])
            wanted = features.mean(axis=0) if pooling == "mean" else features[0]
            wanted = wanted / np.linalg.norm(wanted) if normalize else wanted
            assert found.vector == pytest.approx(wanted.tolist(), rel=1e-4, abs=1e-5)
