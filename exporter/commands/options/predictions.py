"""Options of what is read from the outputs of a model."""

from __future__ import annotations

from exporter.commands.options.shared import config_options
from exporter.predictions.prediction_options import (
    AGGREGATIONS,
    POOLINGS,
    WINDOWS,
    PredictionOptions,
)

prediction_options = config_options(
    PredictionOptions,
    {
        "--top-k": "Labels, answers, fills or passages of a text at most.  [default: all labels "
        "and passages, 3 answers, 5 fills]",
        "--threshold": "Smallest score of a label that is given; of an entity of --entities above "
        "which it is one, 0.5 by default.",
        "--multi-label": "Each label of --zero-shot stands for itself; words may be entities of "
        "several labels of --entities.",
        "--nested": "Whether an entity of --entities may lie within another.",
        f"--aggregation {'|'.join(AGGREGATIONS)}": "How labels of tokens become entities.  "
        "[default: first]",
        "--stride": "Tokens that windows of a long text share.  [default: half of a window, at "
        "most 128]",
        f"--windows {'|'.join(WINDOWS)}": "A long text to classify: cut, or the largest or mean "
        "score of its windows.  [default: cut]",
        "--null-answer": 'Whether "no answer" is one of the answers to a question.',
        "--split-words": "Whether answers may begin or end within a word.",
        "--answer-tokens": "Tokens of an answer at most.  [default: 15]",
        f"--pooling {'|'.join(POOLINGS)}": "Vector of a text: the mean of its tokens, or the "
        "first's.  [default: mean]",
        "--normalize": "Whether vectors get the length 1.",
    },
)
