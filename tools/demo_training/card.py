"""The model card of the demo checkpoint, from what training measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tools.demo_training.settings import TrainingConfig
from tools.demo_training.split import NEUTRAL_BELOW, TEST_PERCENT, VALIDATION_PERCENT


@dataclass(frozen=True)
class CardFacts:
    """What the training run knows: sizes of the model and the parts, and accuracies (0 to 1)."""

    config: TrainingConfig
    parameters: int
    train: int
    neutral: int
    validation: int
    test: int
    train_accuracy: float
    validation_accuracy: float
    test_accuracy: float
    majority: float
    test_by_source: dict[str, float]
    cpu_minutes: float
    versions: dict[str, str]


def model_card(facts: CardFacts) -> str:
    """The README of the checkpoint folder, Markdown."""
    config = facts.config
    by_source = ", ".join(f"{source} {value:.1%}" for source, value in facts.test_by_source.items())
    error = math.sqrt(facts.test_accuracy * (1 - facts.test_accuracy) / facts.test)
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    return f"""# Demo checkpoint: sentence sentiment

A small DeBERTa-v3-like sequence classifier (`NEGATIVE`, `POSITIVE`) that `deb-export` builds when
no other model is named. It is there to try the tool on real weights, not for production.

## Model
{config.layers} layers, hidden size {config.hidden_size}, {config.heads} heads, \
{config.pieces + 1:,} tokens, {facts.parameters:,} parameters, fp32. As in DeBERTa-v3:
position buckets 256, shared position projections, content-to-position and position-to-content
terms, LayerNorm on the relative embeddings, no absolute positions, texts up to 512 tokens. English
only; upper and lower case differ.

## Accuracy
| part | sentences | accuracy |
|---|---:|---:|
| test | {facts.test:,} | **{facts.test_accuracy:.2%}** |
| validation | {facts.validation:,} | {facts.validation_accuracy:.2%} |
| train | {facts.train:,} | {facts.train_accuracy:.2%} |

The standard error of the test figure is {100 * error:.1f} points. By source: {by_source}.
Always answering the more frequent label gives {facts.majority:.1%}. Settings were chosen on the
validation part alone.

## Data, licence
From `sentences.tsv`: English sentences with the mean sentiment rating of several raters, from
about -4 to +4, out of Amazon reviews, film reviews and tweets. They come from the ground-truth
files that the vaderSentiment 0.5 source distribution ships: C. J. Hutto and E. Gilbert, "VADER: A
Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM 2014. That package
is under the MIT License, copyright (c) 2014 cjhutto. The weights, the vocabulary and
`calibration.txt` are derived from this data; keep this note with them.

- **Label**: the sign of the rating. Sentences with a rating nearer to zero than {NEUTRAL_BELOW} \
are in no test or
  validation part: their raters disagree on the sign.
- **Split**: by SHA-256 of the text without case and extra spaces, {TEST_PERCENT} % test, \
{VALIDATION_PERCENT} % validation, the rest
  train (`tools/demo_training/split.py`). Copies of a text are in the same part.
- **Neutral sentences** of the train part ({facts.neutral:,}) are used with their soft target.
- `calibration.txt`: 480 sentences of the train part, spread evenly over the lengths, and 32
  paragraphs joined from such sentences; one text per line.

## Training
SentencePiece unigram on the train part, {config.pretrain_epochs} epochs of masked-token training \
on the train texts packed to
32 to 512 tokens, {config.epochs} epochs on the ratings with the target sigmoid(rating); sampled
segmentation, masked words, joined sentences, and a running average of the weights. Random
initialisation, seed {config.seed}, {versions}, {facts.cpu_minutes:.0f} CPU minutes in the
committed run. The command, which also measured the figures above:

```
python -m tools.demo_training.train --sentences sentences.tsv --output exporter/demo/checkpoint
```
"""
