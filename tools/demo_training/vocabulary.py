"""Train the demo's SentencePiece vocabulary and write its tokenizer files in DeBERTa-v3's layout.

[PAD], [CLS], [SEP], [UNK] are pieces 0 to 3 of `spm.model`; [MASK] is no piece but an added token
with the id after the last piece. Needs `transformers`, like the rest of the training code.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import sentencepiece
from tokenizers import AddedToken, Tokenizer
from transformers.convert_slow_tokenizer import DebertaV2Converter

from exporter.errors import InputError

PAD, CLS, SEP, UNK = 0, 1, 2, 3
SPECIAL_PIECES = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
MASK_TOKEN = "[MASK]"

SPECIAL_TOKENS = {
    "bos_token": "[CLS]",
    "eos_token": "[SEP]",
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": MASK_TOKEN,
}


@dataclass(frozen=True)
class _Source:
    """The attributes that DebertaV2Converter reads of a slow tokenizer."""

    vocab_file: str
    do_lower_case: bool = False
    split_by_punct: bool = False

    def convert_tokens_to_ids(self, token: str) -> int:
        return SPECIAL_PIECES.index(token)


def train_sentencepiece(texts: Iterable[str], pieces: int) -> bytes:
    """Train a unigram model with `pieces` pieces; returns the content of `spm.model`.

    Deterministic: one thread, no subsampling. Normalisation is NFKC, as in DeBERTa-v3. Raises
    InputError when the texts are too few for so many pieces.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="unigram",
            vocab_size=pieces,
            character_coverage=1.0,
            normalization_rule_name="nmt_nfkc",
            pad_id=PAD,
            bos_id=CLS,
            eos_id=SEP,
            unk_id=UNK,
            pad_piece="[PAD]",
            bos_piece="[CLS]",
            eos_piece="[SEP]",
            unk_piece="[UNK]",
            num_threads=1,
            minloglevel=1,
        )
    except RuntimeError as error:
        # SentencePiece reports through RuntimeError alone; its last sentence is the useful one.
        reason = str(error).rpartition("] ")[2]
        raise InputError(f"cannot make a vocabulary of {pieces} pieces: {reason}") from error
    return model.getvalue()


def write_tokenizer(folder: Path, spm_model: bytes) -> sentencepiece.SentencePieceProcessor:
    """Write the tokenizer files of a DeBERTa-v3 checkpoint into `folder`; returns the processor.

    `tokenizer.json` comes from the converter class, not from `DebertaV2Tokenizer.save_pretrained`:
    in transformers 5 the latter drops SentencePiece's character map, so that the two files would
    disagree wherever NFKC changes a text.
    """
    spm_file = folder / "spm.model"
    spm_file.write_bytes(spm_model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=spm_model)
    tokenizer = _converted(spm_file)
    specials = [*SPECIAL_PIECES, MASK_TOKEN]
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in specials]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "DebertaV2Tokenizer",
            "vocab_type": "spm",
            "do_lower_case": False,
            "split_by_punct": False,
            "model_max_length": 512,
            **SPECIAL_TOKENS,
        },
    )
    _write_json(folder / "special_tokens_map.json", SPECIAL_TOKENS)
    _write_json(folder / "added_tokens.json", {MASK_TOKEN: processor.vocab_size()})
    return processor


def _converted(spm_file: Path) -> Tokenizer:
    """The `tokenizers` pipeline with SentencePiece's pieces, scores and character map."""
    converter = DebertaV2Converter(_Source(str(spm_file)))  # type: ignore[no-untyped-call]
    return converter.converted()


def _write_json(path: Path, content: dict[str, object] | dict[str, str] | dict[str, int]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
