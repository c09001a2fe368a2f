"""From the split data to the files of the demo checkpoint. Loads torch and transformers."""

from __future__ import annotations

import time
from pathlib import Path

import torch
import transformers

from tools.demo_training.batches import Encoder
from tools.demo_training.card import CardFacts
from tools.demo_training.settings import TrainingConfig
from tools.demo_training.split import Example, Split
from tools.demo_training.training import Report, accuracy, fine_tune, pretrain
from tools.demo_training.vocabulary import train_sentencepiece, write_tokenizer


def make_checkpoint(
    config: TrainingConfig, split: Split, output: Path, threads: int, report: Report
) -> CardFacts:
    """Write tokenizer files, weights and configuration into `output`, with all parts measured.

    `threads` is how many CPU threads torch may use; `report` gets a line per epoch. The seeds are
    fixed, so the same versions on the same kind of CPU give the same checkpoint.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(config.seed)
    started = time.process_time()
    rated = (*split.train, *split.neutral)
    texts = [example.text for example in rated]
    # Lower-cased copies too: the augmentation lower-cases, and tweets and reviews often are.
    spm_model = train_sentencepiece([*texts, *(text.lower() for text in texts)], config.pieces)
    encoder = Encoder(write_tokenizer(output, spm_model), config.seed)
    weights = pretrain(config, encoder, texts, report)
    model = fine_tune(config, encoder, weights, rated, split.validation, report)
    cpu_minutes = (time.process_time() - started) / 60
    model.save_pretrained(output)
    return CardFacts(
        config=config,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        train=len(split.train),
        neutral=len(split.neutral),
        validation=len(split.validation),
        test=len(split.test),
        train_accuracy=accuracy(model, encoder, split.train),
        validation_accuracy=accuracy(model, encoder, split.validation),
        test_accuracy=accuracy(model, encoder, split.test),
        majority=_majority(split.test),
        test_by_source={
            source: accuracy(model, encoder, [e for e in split.test if e.source == source])
            for source in sorted({e.source for e in split.test})
        },
        cpu_minutes=cpu_minutes,
        versions={"torch": str(torch.__version__), "transformers": transformers.__version__},
    )


def _majority(examples: tuple[Example, ...]) -> float:
    """Accuracy of always answering the more frequent label."""
    positive = sum(example.label for example in examples) / len(examples)
    return max(positive, 1 - positive)
