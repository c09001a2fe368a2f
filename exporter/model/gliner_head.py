"""The head of a GLiNER model as data: what its prompts, words, spans and scores are.

`B` batch, `S` sequence, `W` words, `K` widths of spans, `N` spans, `C` labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SPANS, TOKENS = "markerV0", "token_level"
"""The `span_mode` of models that score spans, and of those that score words."""
SUBTOKEN_POOLINGS = ("first", "last", "mean", "max")
TOKEN_SCORES = 3
"""Of a word and a label: an entity starts here, ends here, goes on here."""


@dataclass(frozen=True)
class GlinerHead:
    """What stands in `gliner_config.json` beside the encoder; names are those of that file.

    Attributes:
        hidden_size: width of the head; the encoder's output is projected where it has another.
        max_width: words of a span at most, `K`; a token model has no use for it.
        max_len: words of a text at most that the model was trained for.
        num_rnn_layers: layers of the LSTM over the words, 0 for none.
        subtoken_pooling: one of `SUBTOKEN_POOLINGS`: which tokens of a word are its vector.
        embed_ent_token: whether a label's vector is that of `ent_token`, else of the token after.
        class_token_index: id of `ent_token`.
        ent_token, sep_token: stand before each label of a prompt, and behind all of them.
    """

    hidden_size: int = 512
    max_width: int = 12
    max_len: int = 384
    num_rnn_layers: int = 1
    span_mode: str = SPANS
    subtoken_pooling: str = "first"
    embed_ent_token: bool = True
    class_token_index: int = -1
    ent_token: str = "<<ENT>>"
    sep_token: str = "<<SEP>>"

    @property
    def scores_spans(self) -> bool:
        """Whether spans are scored, else words."""
        return self.span_mode == SPANS

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, in order.

        int64 `input_ids`, `attention_mask` and `words_mask` `(B, S)`, the last with the number of a
        word, from 1, at the tokens that its vector is made of; `text_lengths` `(B, 1)`, words of
        each text; and of spans `span_idx` `(B, N, 2)`, first and last word from 0, with `N` of
        `W * K`, and bool `span_mask` `(B, N)`.
        """
        names = ("input_ids", "attention_mask", "words_mask", "text_lengths")
        return (*names, "span_idx", "span_mask") if self.scores_spans else names

    def output_shape(self, feeds: Mapping[str, NDArray[Any]]) -> tuple[int, ...]:
        """Shape of the logits for these inputs: `(B, W, K, C)`, or `(B, W, C, 3)`."""
        count = int(label_counts(self, feeds).max(initial=0))
        batch = len(feeds["input_ids"])
        if not self.scores_spans:
            return batch, int(feeds["text_lengths"].max(initial=0)), count, TOKEN_SCORES
        return batch, feeds["span_idx"].shape[1] // self.max_width, self.max_width, count

    def valid(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        """True at the logits that mean something; of the shape of the logits."""
        shape = self.output_shape(feeds)
        axis = -1 if self.scores_spans else -2
        labels = np.arange(shape[axis]) < label_counts(self, feeds)[:, None]
        if self.scores_spans:
            spans = feeds["span_mask"].astype(np.bool_).reshape(shape[:3])
            found: NDArray[np.bool_] = spans[..., None] & labels[:, None, None, :]
            return found
        words = np.arange(shape[1]) < feeds["text_lengths"].reshape(-1, 1)
        return np.repeat((words[..., None] & labels[:, None])[..., None], TOKEN_SCORES, axis=-1)


def label_counts(head: GlinerHead, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:
    """Number of labels in the prompt of each example, `(B,)`."""
    marks = (feeds["input_ids"] == head.class_token_index) & (feeds["attention_mask"] != 0)
    counts: NDArray[np.int64] = marks.sum(axis=1)
    return counts


def span_indices(head: GlinerHead, words: int) -> NDArray[np.int64]:
    """First and last word of every span of a text of so many words, `(W * K, 2)`; of those that
    reach beyond the end too, as GLiNER lists them."""
    starts = np.repeat(np.arange(words), head.max_width)
    widths = np.tile(np.arange(head.max_width), words)
    return np.stack([starts, starts + widths], axis=1)


def text_feeds(head: GlinerHead, lengths: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """The inputs that follow from the number of words of each text, `(B,)`."""
    feeds: dict[str, NDArray[Any]] = {"text_lengths": lengths[:, None]}
    if head.scores_spans:
        spans = span_indices(head, int(lengths.max(initial=1)))
        # GLiNER pads the spans of shorter texts with zeros.
        own = np.arange(len(spans)) < head.max_width * lengths[:, None]
        feeds["span_idx"] = np.where(own[..., None], spans, 0)
        feeds["span_mask"] = own & (spans[:, 1] < lengths[:, None])
    return feeds
