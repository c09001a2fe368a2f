"""The training script, on synthetic sentences and with wrong input."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from exporter.errors import InputError
from tools.demo_training.settings import TrainingConfig
from tools.demo_training.split import Example, load_split
from tools.demo_training.train import calibration_texts, main, train

TINY = replace(
    TrainingConfig(), pieces=50, hidden_size=16, layers=1, heads=2, pretrain_epochs=1, epochs=2
)


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    """Sentences whose words give the label away."""
    things = ("film", "phone", "book", "song", "camera", "story", "game", "day", "radio", "pen")
    words = {2.5: ("great", "lovely", "superb", "fine"), -2.5: ("awful", "bad", "dull", "dreadful")}
    lines = ["source\trating\ttext"]
    for rating, qualities in words.items():
        for thing, other, quality in itertools.product(things, things, qualities):
            lines.append(f"movie\t{rating}\tThe {thing} is {quality} and so is that {other}.")
            if len(other) > 4:
                lines.append(f"tweet\t{rating / 10}\tA {thing}, {quality}, a {other}.")
    path = tmp_path / "sentences.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_tiny_training_writes_a_checkpoint_that_matches_its_card(
    sentences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "checkpoint"
    threads = torch.get_num_threads()
    try:
        facts = train(TINY, sentences, output, threads=1)
    finally:
        torch.set_num_threads(threads)
    assert "rating 2/2" in capsys.readouterr().out
    model = AutoModelForSequenceClassification.from_pretrained(output)
    tokenizer = AutoTokenizer.from_pretrained(output)
    right = 0
    test = load_split(sentences).test
    for example in test:
        with torch.no_grad():
            logits = model(**tokenizer(example.text, return_tensors="pt")).logits
        right += int(logits.argmax()) == example.label
    assert right / len(test) == pytest.approx(facts.test_accuracy)
    card = (output / "README.md").read_text(encoding="utf-8")
    assert f"**{facts.test_accuracy:.2%}**" in card
    assert "MIT License, copyright (c) 2014 cjhutto" in card
    assert len((output / "calibration.txt").read_text(encoding="utf-8").splitlines()) == 512


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_training_is_repeatable(sentences: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        for name in ("first", "second"):
            train(replace(TINY, epochs=1), sentences, tmp_path / name, threads=1)
    finally:
        torch.set_num_threads(threads)
    for path in (tmp_path / "first").iterdir():
        if path.name != "README.md":  # the card records the time it took
            assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes(), path.name


def test_too_few_words_for_the_vocabulary(sentences: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="140 pieces"):
        train(replace(TINY, pieces=140), sentences, tmp_path / "out", threads=1)


def test_calibration_text_spreads_over_the_lengths() -> None:
    examples = tuple(Example(f"{'word ' * (i % 40)}end {i}.", 1, 1.0, "x") for i in range(2000))
    texts = calibration_texts(examples)
    assert texts == calibration_texts(tuple(reversed(examples)))
    assert len(texts) == 512
    lengths = [len(text.split()) for text in texts]
    assert min(lengths) <= 2
    assert max(lengths) > 200
    assert max(map(len, texts)) <= 1500
    with pytest.raises(InputError, match="480"):
        calibration_texts(examples[:100])


def test_a_missing_file_is_a_message_with_exit_code_2(tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = ["--sentences", str(tmp_path / "no.tsv"), "--output", str(output)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "no.tsv" in result.output
    assert not output.exists()


def test_without_torch_exit_code_3_names_the_extra(sentences: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from tools.demo_training.train import main; "
        f"main(['--sentences', {str(sentences)!r}, '--output', {str(tmp_path / 'out')!r}])"
    )
    root = Path(__file__).resolve().parents[4]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.returncode == 3
    assert "torch" in done.stderr
    assert "deb-export[bench]" in done.stderr
