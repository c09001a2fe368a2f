"""GLiNER's head: a score for each span, or word, and each label of the prompt.

Zaratiana et al., "GLiNER: Generalist Model for Named Entity Recognition using Bidirectional
Transformer", NAACL 2024; the numbers must match `gliner` 0.2 (`UniEncoderSpanModel` with markerV0,
`UniEncoderTokenModel`). Layers over vectors that `gliner` sets side by side are sums here, one term
for each vector, see `gliner_weights`: equal but for the order of sums, and a span costs an addition
where it cost a matrix.

`B` batch, `S` sequence, `E` hidden size of the encoder, `D` width of the head, `W` words, `K`
widths, `N = W * K` spans, `C` labels.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from exporter.deberta.configuration import DebertaConfig
from exporter.deberta.modeling import DebertaModel
from exporter.errors import InputError
from exporter.model.gliner_head import GlinerHead


class Gliner(nn.Module):
    """Encoder, words and labels out of its tokens, their scores.

    It is called with the inputs of `GlinerHead.inputs` in their order and returns `logits`:
    `(B, W, K, C)` for spans, `(B, W, C, 3)` for words.
    """

    def __init__(self, config: DebertaConfig) -> None:
        super().__init__()
        if config.gliner is None:
            raise InputError("no gliner_config.json: this is no GLiNER model; choose another task")
        self.head = head = config.gliner
        self.deberta = DebertaModel(config)
        width = head.hidden_size
        projected = config.hidden_size != width
        self.projection = nn.Linear(config.hidden_size, width) if projected else None
        self.rnn: nn.Module | None = WordLstm(head) if head.num_rnn_layers > 0 else None
        if head.scores_spans:
            self.span_scorer = SpanScorer(width)
        else:
            self.token_scorer = TokenScorer(width)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        words_mask: Tensor,
        text_lengths: Tensor,
        span_idx: Tensor | None = None,
        span_mask: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """See the class; types and shapes are those of `GlinerHead.inputs`."""
        head = self.head
        (hidden,) = self.deberta(input_ids, attention_mask)
        if self.projection is not None:
            hidden = self.projection(hidden)
        if span_idx is None:
            count = _size(text_lengths.max(), words_mask.shape[1])
        else:
            count = span_idx.shape[1] // head.max_width
        labels = self._labels(hidden, input_ids, attention_mask)
        words = pooled(hidden, words_mask * attention_mask, count, head.subtoken_pooling)
        if self.rnn is not None:
            words = self.rnn(words, text_lengths.select(1, 0).clamp(max=count))
        if span_idx is None or span_mask is None:
            return (self.token_scorer(words, labels),)
        scores = self.span_scorer(words, span_idx * span_mask.unsqueeze(-1), labels)
        return (scores.unflatten(1, (count, head.max_width)),)

    def _labels(self, hidden: Tensor, input_ids: Tensor, mask: Tensor) -> Tensor:
        """The vector of each label `(B, C, D)`: of its mark in the prompt, or the token after."""
        marks = ((input_ids == self.head.class_token_index) & (mask > 0)).to(torch.int64)
        numbers = marks.cumsum(1) * marks
        count = _size(numbers.max(), input_ids.shape[1])
        places = last_places(numbers, count)
        if not self.head.embed_ent_token:
            places = (places + (places > 0)).clamp(max=input_ids.shape[1])
        return picked(hidden, places)


class WordLstm(nn.Module):
    """A bidirectional LSTM over the words of each text."""

    def __init__(self, head: GlinerHead) -> None:
        super().__init__()
        half, layers = head.hidden_size // 2, head.num_rnn_layers
        self.lstm = nn.LSTM(head.hidden_size, half, layers, batch_first=True, bidirectional=True)

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        """`(B, W, D)` and `(B,)` -> `(B, W, D)`, zero beyond the words of a text."""
        packed = pack_padded_sequence(words, lengths.cpu(), batch_first=True, enforce_sorted=False)
        found, _ = self.lstm(packed)
        length = words.shape[1]
        padded: Tensor = pad_packed_sequence(found, batch_first=True, total_length=length)[0]
        return padded


def _projection(width: int) -> nn.Sequential:
    """Two layers, four times as wide between them; numbered as with the dropout of `gliner`."""
    parts = {"0": nn.Linear(width, 4 * width), "1": nn.ReLU(), "3": nn.Linear(4 * width, width)}
    return nn.Sequential(OrderedDict(parts))


class SpanScorer(nn.Module):
    """Scores of spans by their first and last word (markerV0).

    `gliner` has `out(relu([s, e])) . p` with `out(x) = V relu(U x + a) + b`. Here `start` and `end`
    are the halves of `U`, `label` is the transpose of `V`, and `label_bias` is `b`.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.prompt = _projection(width)
        self.project_start = _projection(width)
        self.project_end = _projection(width)
        self.start = nn.Linear(width, 4 * width)
        self.end = nn.Linear(width, 4 * width, bias=False)
        self.label = nn.Linear(width, 4 * width, bias=False)
        self.label_bias = nn.Linear(width, 1, bias=False)

    def forward(self, words: Tensor, spans: Tensor, labels: Tensor) -> Tensor:
        """`(B, W, D)`, `(B, N, 2)` and `(B, C, D)` -> `(B, N, C)`."""
        first = self.start(torch.relu(self.project_start(words)))
        last = self.end(torch.relu(self.project_end(words)))
        inner = torch.relu(rows(first, spans.select(2, 0)) + rows(last, spans.select(2, 1)))
        prompt = self.prompt(labels)
        bias = self.label_bias(prompt).transpose(1, 2)
        scores: Tensor = inner @ self.label(prompt).transpose(1, 2) + bias
        return scores


class TokenScorer(nn.Module):
    """Three scores of each word for each label: an entity starts here, ends here, goes on here.

    `gliner` has `out(relu(U [t, l, t' * l'] + a))`; `word`, `label` and `pair` are parts of `U`.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj_token = nn.Linear(width, 2 * width)
        self.proj_label = nn.Linear(width, 2 * width)
        self.word = nn.Linear(width, 4 * width)
        self.label = nn.Linear(width, 4 * width, bias=False)
        self.pair = nn.Linear(width, 4 * width, bias=False)
        self.out = nn.Linear(4 * width, 3)

    def forward(self, words: Tensor, labels: Tensor) -> Tensor:
        """`(B, W, D)` and `(B, C, D)` -> `(B, W, C, 3)`."""
        word, word_factor = self.proj_token(words).chunk(2, dim=-1)
        label, label_factor = self.proj_label(labels).chunk(2, dim=-1)
        both = word_factor.unsqueeze(2) * label_factor.unsqueeze(1)
        inner = self.word(word).unsqueeze(2) + self.label(label).unsqueeze(1) + self.pair(both)
        scores: Tensor = self.out(torch.relu(inner))
        return scores


def pooled(hidden: Tensor, numbers: Tensor, count: int, pooling: str) -> Tensor:
    """The vectors of `count` words `(B, count, D)` from those of their tokens; 0 without a token.

    Args:
        hidden: `(B, S, D)`.
        numbers: int64 `(B, S)`, the word, from 1, that a token counts for, 0 for none.
        pooling: of the tokens of a word; "first" and "last" have one each, by their numbers.
    """
    numbers = torch.where(numbers > count, 0, numbers)
    if pooling in ("first", "last"):
        return picked(hidden, last_places(numbers, count))
    if pooling == "mean":
        of_word = numbers.unsqueeze(1) == torch.arange(1, count + 1, device=numbers.device)[:, None]
        share = of_word.to(hidden.dtype)
        return share @ hidden / share.sum(2, keepdim=True).clamp(min=1.0)
    batch, _, width = hidden.shape
    lowest = hidden.new_full((batch, count + 1, width), torch.finfo(hidden.dtype).min)
    index = numbers.unsqueeze(2).expand(hidden.shape)
    largest = lowest.scatter_reduce(1, index, hidden, "amax").narrow(1, 1, count)
    found = last_places(numbers, count) > 0
    return torch.where(found.unsqueeze(2), largest, 0.0)


def last_places(numbers: Tensor, count: int) -> Tensor:
    """The place, from 1, of the last token that has each of the numbers 1 to `count`; 0 for none.

    `(B, S)` -> `(B, count)`, int64.
    """
    batch, length = numbers.shape
    places = torch.arange(1, length + 1, device=numbers.device).expand(batch, length)
    # What has no number, or one above, goes to a column that is dropped.
    found = numbers.new_zeros(batch, count + 1).scatter(1, numbers, places)
    return found.narrow(1, 1, count)


def picked(hidden: Tensor, places: Tensor) -> Tensor:
    """The vectors at places from 1, zeros at place 0: `(B, S, D)` and `(B, P)` -> `(B, P, D)`."""
    present = (places > 0).unsqueeze(-1).to(hidden.dtype)
    return rows(hidden, (places - 1).clamp(min=0)) * present


def rows(values: Tensor, index: Tensor) -> Tensor:
    """`values[b, index[b, p]]`: `(B, S, D)` and int64 `(B, P)` -> `(B, P, D)`.

    One gather over all rows: runtimes copy whole vectors for it.
    """
    batch, length, width = values.shape
    flat = index + length * torch.arange(batch, device=index.device).unsqueeze(1)
    return values.reshape(-1, width).index_select(0, flat.flatten()).view(batch, -1, width)


def _size(count: Tensor, most: int) -> int:
    """A size that is a value; the tracer is told what bounds it."""
    size: int = count.item()  # type: ignore[assignment]  # of the tracer a symbol, which int() ends
    torch._check(size >= 0)  # type: ignore[no-untyped-call]
    torch._check(size <= most)  # type: ignore[no-untyped-call]
    return size
