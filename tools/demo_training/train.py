"""Train the demo checkpoint: `python -m tools.demo_training.train --sentences FILE --output DIR`.

Writes the whole checkpoint folder: weights, configuration, tokenizer files, calibration text and
the model card with the measured accuracy. Needs torch and transformers (the `bench` extra).
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from exporter.errors import DebExportError, InputError, MissingDependencyError
from tools.demo_training.card import CardFacts, model_card
from tools.demo_training.settings import TrainingConfig
from tools.demo_training.split import Example, load_split

CALIBRATION_SENTENCES = 480
CALIBRATION_PARAGRAPHS = 32
# About 450 tokens of this vocabulary: long, but inside the model's 512.
PARAGRAPH_CHARACTERS = 1500


def calibration_texts(examples: tuple[Example, ...]) -> list[str]:
    """480 sentences, evenly spaced over the lengths, and 32 paragraphs of up to 16 sentences.

    Paragraphs are there for the long distances; they keep below 1500 characters. Deterministic,
    whatever the order of the examples. Raises InputError when there are fewer than 480 examples.
    """
    texts = sorted({" ".join(example.text.split()) for example in examples})
    if len(texts) < CALIBRATION_SENTENCES:
        raise InputError(
            f"{len(texts)} training sentences; the calibration text needs {CALIBRATION_SENTENCES}"
        )
    by_length = sorted(texts, key=len)
    sentences = [
        by_length[i * len(texts) // CALIBRATION_SENTENCES] for i in range(CALIBRATION_SENTENCES)
    ]
    paragraphs = []
    for i in range(CALIBRATION_PARAGRAPHS):
        count = 4 + 12 * i // (CALIBRATION_PARAGRAPHS - 1)
        # A stride that is coprime to most sizes spreads the members over the alphabet.
        members = [texts[(997 * i + 389 * k) % len(texts)] for k in range(count)]
        while len(" ".join(members)) > PARAGRAPH_CHARACTERS and len(members) > 1:
            members.pop()
        paragraphs.append(" ".join(members))
    return sentences + paragraphs


def train(config: TrainingConfig, sentences: Path, output: Path, threads: int) -> CardFacts:
    """Train on the sentences file and write the checkpoint folder; returns what the card records.

    `threads` is how many CPU threads torch may use.

    Raises InputError for a bad sentences file or an output that cannot be written, and
    MissingDependencyError without torch or transformers.
    """
    split = load_split(sentences)
    calibration = calibration_texts(split.train)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the output folder {output}: {error.strerror}") from error
    try:
        from tools.demo_training.recipe import make_checkpoint
    except ImportError as error:
        raise MissingDependencyError(
            f"training the demo needs {error.name}: pip install 'deb-export[bench]'"
        ) from error
    facts = make_checkpoint(config, split, output, threads, click.echo)
    (output / "calibration.txt").write_text("\n".join(calibration) + "\n", encoding="utf-8")
    (output / "README.md").write_text(model_card(facts), encoding="utf-8")
    return facts


@click.command()
@click.option(
    "--sentences",
    required=True,
    type=click.Path(path_type=Path),
    help="Tab-separated file: source, rating, text.",
)
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Checkpoint folder; made if absent, files in it are overwritten.",
)
@click.option(
    "--threads",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="CPU threads; the tensors are small, so more help only on an idle machine.",
)
def main(sentences: Path, output: Path, threads: int) -> None:
    """Train the built-in demo checkpoint."""
    try:
        facts = train(TrainingConfig(), sentences, output, threads)
    except DebExportError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    click.echo(f"test accuracy {facts.test_accuracy:.4f} on {facts.test} sentences")
    click.echo(f"written to {output} after {facts.cpu_minutes:.1f} CPU minutes")


if __name__ == "__main__":
    main()
