"""`config.json` of a DeBERTa-v2 checkpoint: every field that the model reads, validated.

Fields and defaults must match `DebertaV2Config` and the `getattr` calls of `modeling_deberta_v2.py`
in transformers. A field with `null` counts as absent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from calibration.json_values import field_of, read_json
from exporter.errors import InputError
from exporter.model.gliner_head import GlinerHead
from exporter.model.model_shape import LABEL_KINDS, ModelShape
from exporter.model.task import Task

ACTIVATIONS = (
    "gelu gelu_10 gelu_accurate gelu_fast gelu_new gelu_python gelu_python_tanh gelu_pytorch_tanh "
    "hardswish laplace leaky_relu linear mish prelu quick_gelu relu relu2 relu6 sigmoid silu "
    "sqrtsoftplus swish tanh xielu"
).split()
POSITION_TERMS = ("c2p", "p2c")
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")

_UNREAD_TERM = "p2p"  # of Microsoft's code; transformers reads past it, and so did its training

_POSITIVE = (
    "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size "
    "max_position_embeddings attention_head_size embedding_size"
).split()

# Fields of every transformers configuration that say nothing about inference.
_IGNORED = frozenset(
    "_name_or_path _commit_hash _attn_implementation attention_probs_dropout_prob bos_token_id "
    "chunk_size_feed_forward cls_dropout decoder_start_token_id dtype eos_token_id "
    "gradient_checkpointing hidden_dropout_prob initializer_range is_decoder "
    "is_encoder_decoder model_type output_attentions output_hidden_states padding_idx "
    "pooler_dropout return_dict sep_token_id torch_dtype transformers_version use_cache "
    "add_cross_attention finetuning_task tokenizer_class task_specific_params "
    "problem_type_source cross_attention_hidden_size prune_heads pruned_heads label2id".split()
)


@dataclass(frozen=True)
class DebertaConfig:
    """A DeBERTa-v2/v3 configuration; names are those of `config.json`.

    Raises InputError when a value has the wrong type or lies outside what the model can compute;
    the message names the field.
    """

    vocab_size: int = 128100
    hidden_size: int = 1536
    num_hidden_layers: int = 24
    num_attention_heads: int = 24
    intermediate_size: int = 6144
    hidden_act: str = "gelu"
    max_position_embeddings: int = 512
    type_vocab_size: int = 0
    layer_norm_eps: float = 1e-7
    pad_token_id: int = 0
    relative_attention: bool = False
    max_relative_positions: int = -1
    position_buckets: int = -1
    position_biased_input: bool = True
    pos_att_type: tuple[str, ...] = ()
    share_att_key: bool = False
    norm_rel_ebd: bool = False
    attention_head_size: int | None = None
    embedding_size: int | None = None
    conv_kernel_size: int = 0
    conv_groups: int = 1
    conv_act: str = "tanh"
    pooler_hidden_size: int | None = None
    pooler_hidden_act: str = "gelu"
    legacy: bool = True
    tie_word_embeddings: bool = True
    problem_type: str | None = None
    activation_fn: str | None = None
    """Class that sentence-transformers applies to the one logit of a CrossEncoder."""
    architectures: tuple[str, ...] = ()
    id2label: Mapping[int, str] = field(default_factory=lambda: {0: "LABEL_0", 1: "LABEL_1"})
    gliner: GlinerHead | None = None
    """The head of a GLiNER model, whose file is another: see `gliner_configuration`."""
    unknown: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the file that nothing here reads, as they stand there."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What a user should know of the file: what is not read, or contradicts itself."""

    @classmethod
    def from_folder(cls, folder: Path) -> DebertaConfig:
        """Read `config.json` of a checkpoint folder.

        Raises InputError when the folder or file is missing, is not JSON, or has a wrong value.
        """
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; a checkpoint is a folder with config.json")
        path = folder / "config.json"
        if not path.exists():
            raise InputError(f"{folder}: no config.json; is this a checkpoint folder?")
        raw = read_object(path)
        try:
            return cls.from_dict(raw)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> DebertaConfig:
        """Make a configuration from the fields of `config.json`.

        Raises InputError when `model_type` is not deberta-v2, or a field is wrong; it is named.
        """
        model_type = raw.get("model_type")
        if model_type == "deberta":
            raise InputError(
                "model_type is 'deberta': this is DeBERTa v1, whose layers are others than those "
                "of v2 and v3 ('deberta-v2'); export it with torch.onnx or Optimum, or train a v3"
            )
        if model_type != "deberta-v2":
            raise InputError(
                f"model_type is {model_type!r}; only 'deberta-v2' is supported "
                "(DeBERTa-v2, DeBERTa-v3, mDeBERTa)"
            )
        known = get_type_hints(cls)
        for name in ("unknown", "notes", "activation_fn"):
            del known[name]
        present = {key: value for key, value in raw.items() if value is not None}
        try:
            values: dict[str, Any] = {
                name: _PARSERS[name](present[name])
                if name in _PARSERS
                else field_of(present, name, kind)
                for name, kind in known.items()
                if name in present
            }
            if "id2label" not in values and "num_labels" in present:
                count = field_of(present, "num_labels", int)
                if count < 1:
                    raise InputError(f"num_labels is {count}; expected at least 1")
                values["id2label"] = {i: f"LABEL_{i}" for i in range(count)}
        except ValueError as error:
            raise InputError(str(error)) from None
        skipped = known.keys() | _IGNORED | {"num_labels", *_ACTIVATION_KEYS}
        unknown = {key: value for key, value in raw.items() if key not in skipped}
        config = cls(**values, unknown=unknown, activation_fn=_activation_fn(present))
        return replace(config, notes=tuple(_notes(config, present)))

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            value = getattr(self, name)
            self._require(name, value is None or value >= 1, "at least 1")
        self._require("type_vocab_size", self.type_vocab_size >= 0, "at least 0")
        finite = 0 <= self.layer_norm_eps < math.inf
        self._require("layer_norm_eps", finite, "a number of at least 0")
        is_id = 0 <= self.pad_token_id < self.vocab_size
        self._require("pad_token_id", is_id, f"an id below vocab_size ({self.vocab_size})")
        for name in ("hidden_act", "conv_act", "pooler_hidden_act"):
            known = getattr(self, name) in ACTIVATIONS
            self._require(name, known, "one of " + ", ".join(ACTIVATIONS))
        width, heads = self.hidden_size, self.num_attention_heads
        divides = self.attention_head_size is not None or width % heads == 0
        self._require("hidden_size", divides, f"a multiple of num_attention_heads ({heads})")
        expected = f"hidden_size ({width}), whose first token it reads"
        self._require("pooler_hidden_size", self.pooler_hidden_size in (None, width), expected)
        self._check_positions()
        if self.conv_kernel_size > 0:
            self._require("conv_kernel_size", self.conv_kernel_size % 2 == 1, "an odd number")
            divides = self.conv_groups >= 1 and width % self.conv_groups == 0
            self._require("conv_groups", divides, f"a divisor of hidden_size ({width})")
        if set(self.id2label) != set(range(max(1, len(self.id2label)))):
            keys = sorted(self.id2label)
            raise InputError(f"id2label has the keys {keys}; expected 0, 1, ... without gaps")

    def _check_positions(self) -> None:
        for term in self.pos_att_type:
            if term not in (*POSITION_TERMS, _UNREAD_TERM):
                raise InputError(f"pos_att_type is {term!r}; expected c2p, p2c, both or none")
        if self.relative_attention and self.position_buckets > 0:
            self._require("position_buckets", self.position_buckets >= 2, "at least 2")
            # The logarithm's base is (max_position - 1) / (buckets // 2): it must exceed 1.
            most = self.relative_positions - 1
            expected = f"less than twice max_relative_positions - 1 ({most})"
            self._require("position_buckets", most > self.position_buckets // 2, expected)

    def _require(self, name: str, condition: bool, expected: str) -> None:
        if not condition:
            raise InputError(f"{name} is {getattr(self, name)!r}; expected {expected}")

    @property
    def head_size(self) -> int:
        """Size of one attention head, `D`."""
        return self.attention_head_size or self.hidden_size // self.num_attention_heads

    @property
    def embedding_width(self) -> int:
        """Width of the word embeddings: `embedding_size`, or `hidden_size` where it is absent."""
        return self.hidden_size if self.embedding_size is None else self.embedding_size

    @property
    def c2p(self) -> bool:
        """Whether the content-to-position term is computed."""
        return self.relative_attention and "c2p" in self.pos_att_type

    @property
    def p2c(self) -> bool:
        """Whether the position-to-content term is computed."""
        return self.relative_attention and "p2c" in self.pos_att_type

    @property
    def attention_scale(self) -> float:
        """Factor of all score terms, `1 / sqrt(D * terms)`.

        The terms are those that `pos_att_type` names, also where `relative_attention` is off:
        `scale_factor` of transformers counts them so.
        """
        terms = 1 + sum(term in self.pos_att_type for term in POSITION_TERMS)
        return float((self.head_size * terms) ** -0.5)

    @property
    def relative_positions(self) -> int:
        """`max_relative_positions`, or `max_position_embeddings` where it is below 1."""
        most = self.max_relative_positions
        return self.max_position_embeddings if most < 1 else most

    @property
    def position_span(self) -> int:
        """Half the number of position slots, `R / 2`."""
        return self.position_buckets if self.position_buckets > 0 else self.relative_positions

    @property
    def num_labels(self) -> int:
        """Number of labels of a classification head."""
        return len(self.id2label)

    def shape(self, task: Task) -> ModelShape:
        """What this model takes and gives with the head `task`."""
        names = (item.name for item in fields(ModelShape) if item.name != "task")
        return ModelShape(task=task, **{name: getattr(self, name) for name in names})

    def to_dict(self) -> dict[str, Any]:
        """Every field but `unknown` and `notes` as JSON values, which `from_dict` reads back."""
        names = [f.name for f in fields(self) if f.name not in ("unknown", "notes")]
        result = {name: getattr(self, name) for name in names}
        if (head := result.pop("gliner")) is not None:
            result["gliner"] = asdict(head)
        if activation := result.pop("activation_fn"):
            result["sentence_transformers"] = {"activation_fn": activation}
        result["model_type"] = "deberta-v2"
        result["norm_rel_ebd"] = "layer_norm" if self.norm_rel_ebd else "none"
        result["id2label"] = {str(key): label for key, label in self.id2label.items()}
        for name in ("pos_att_type", "architectures"):
            result[name] = list(result[name])
        return result


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a checkpoint; InputError when it is none, or cannot be read."""
    try:
        value = read_json(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path}: is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds a JSON {type(value).__name__}, expected an object")
    return value


def _parse_pos_att_type(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part.strip() for part in value.lower().split("|")]
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise InputError(f"pos_att_type is {value!r}; expected text such as 'p2c|c2p', or a list")
    return tuple(part for part in value if part not in ("", "none"))


def _parse_norm_rel_ebd(value: object) -> bool:
    parts = {part.strip() for part in value.lower().split("|")} if isinstance(value, str) else None
    if parts is None or not parts <= {"", "none", "layer_norm"}:
        raise InputError(f"norm_rel_ebd is {value!r}; expected 'none' or 'layer_norm'")
    return "layer_norm" in parts


def _parse_id2label(value: object) -> dict[int, str]:
    if not isinstance(value, dict):
        raise InputError(f"id2label is {value!r}; expected an object of ids and names")
    try:
        labels = {int(key): str(label) for key, label in value.items()}
    except ValueError:
        raise InputError(f"id2label has the keys {sorted(value)}; expected whole numbers") from None
    return dict(sorted(labels.items()))


_ACTIVATION_KEYS = ("sentence_transformers", "sbert_ce_default_activation_function")


def _activation_fn(present: Mapping[str, Any]) -> str | None:
    """As sentence-transformers writes it since version 4, or as it did before."""
    newer, older = (present.get(key) for key in _ACTIVATION_KEYS)
    found = newer.get("activation_fn") if isinstance(newer, dict) else None
    return found if isinstance(found, str) else older if isinstance(older, str) else None


def _notes(config: DebertaConfig, present: Mapping[str, Any]) -> Iterator[str]:
    """What is not read, and what contradicts itself."""
    if config.unknown:
        yield f"has fields that nothing reads: {', '.join(sorted(config.unknown))}"
    if _UNREAD_TERM in config.pos_att_type:
        yield f"{_UNREAD_TERM} of pos_att_type is left out, as transformers does"
    if config.problem_type not in (None, *PROBLEM_TYPES):
        yield f"problem_type is {config.problem_type!r}, none of {', '.join(PROBLEM_TYPES)}"
    labels = list(config.id2label.values())
    activation = config.activation_fn
    if len(labels) == 1 and activation and activation.rpartition(".")[2] not in LABEL_KINDS:
        yield f"{activation} of the one label is not known: answers have its raw value"
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        yield f"id2label gives several classes the name {', '.join(twice)}"
    count = present.get("num_labels", len(labels))
    if count != len(labels):
        yield f"num_labels is {count}, but id2label has {len(labels)} names, which are used"
    inverse = present.get("label2id", {})
    for index, label in config.id2label.items():
        if isinstance(inverse, dict) and inverse and inverse.get(label, -1) != index and not twice:
            yield f"label2id contradicts id2label, which is used: {label!r} is {index} there"
            break


_PARSERS: dict[str, Callable[[object], object]] = {
    "pos_att_type": _parse_pos_att_type,
    "norm_rel_ebd": _parse_norm_rel_ebd,
    "id2label": _parse_id2label,
}
