"""config.json of the GPT-2 family, checked and frozen."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from export.errors import CheckpointError
from export.reading import read_json_object
from runtime.contract import Architecture, Kind

CONFIG_FILE = "config.json"
HEAD_SIZE_STEP = 8  # onnxruntime's GroupQueryAttention takes multiples of it
GPT2_EOS = 50256  # transformers leaves keys out of config.json that have GPT2Config's default
MAX_LAYERS = 1024
MAX_HEADS = 1024
MAX_HIDDEN_SIZE = 65_536
MAX_VOCAB_SIZE = 4_000_000
MAX_CONTEXT_LENGTH = 1 << 20
MAX_LABELS = 100_000
MAX_LABEL_LENGTH = 1000  # characters
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")


class Activation(str, Enum):
    GELU_NEW = "gelu_new"
    GELU_TANH = "gelu_pytorch_tanh"  # the same function as gelu_new, computed by torch
    GELU = "gelu"
    RELU = "relu"

    @property
    def lowest(self) -> float:
        """No value of the function lies below this."""
        return 0.0 if self is Activation.RELU else -0.171


class Head(str, Enum):
    """What stands on the body; the value is the name in `architectures`."""

    LM = "GPT2LMHeadModel"
    SEQUENCE = "GPT2ForSequenceClassification"
    TOKEN = "GPT2ForTokenClassification"
    JOINT = "GPT2ForJointNlu"

    @property
    def kind(self) -> Kind:
        if self is Head.LM:
            return Kind.LM
        return Kind.CLASSIFIER if self is Head.SEQUENCE else Kind.NLU


@dataclass(frozen=True, slots=True)
class ModelConfig:
    head: Head
    num_layers: int
    num_heads: int
    hidden_size: int
    inner_size: int
    vocab_size: int
    context_length: int
    activation: Activation
    layer_norm_epsilon: float
    scale_attention: bool
    scale_by_layer: bool
    tied: bool
    eos_token_id: int
    pad_token_id: int
    labels: tuple[str, ...] = ()
    slot_labels: tuple[str, ...] = ()
    nlu_echo: bool = False
    problem_type: str = "single_label_classification"

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def architecture(self) -> Architecture:
        """The numbers that a server needs."""
        return Architecture(
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            head_size=cache_head_size(self.head_size),
            hidden_size=self.hidden_size,
            vocab_size=self.vocab_size,
            context_length=self.context_length,
            eos_token_id=self.eos_token_id,
            pad_token_id=self.pad_token_id,
        )

    def attention_scale(self, layer: int) -> float:
        """What query times key is multiplied by, as GPT2Attention does."""
        scale = self.head_size**-0.5 if self.scale_attention else 1.0
        return scale / (layer + 1) if self.scale_by_layer else scale


def cache_head_size(head_size: int) -> int:
    """As wide as a head lies in the cache; what is more than the model's own is zeros."""
    return -(-head_size // HEAD_SIZE_STEP) * HEAD_SIZE_STEP


class _Reader:
    """Typed access to config.json; every error names the key, the value and what is allowed."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data

    def get(self, key: str, default: Any) -> Any:
        value = self._data.get(key)
        return default if value is None else value

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        value = self.get(key, default)
        if type(value) is not int or not low <= value <= high:
            raise refused(key, value, f"a whole number from {low} to {high} is needed")
        return value

    def boolean(self, key: str, default: bool) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise refused(key, value, "true or false is needed")
        return value

    def number(self, key: str, default: float, low: float, high: float) -> float:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise refused(key, value, f"a number from {low} to {high} is needed")
        return float(value)

    def names(self, key: str) -> tuple[str, ...]:
        """A list of distinct, non-empty strings."""
        value = self.get(key, [])
        if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
            raise refused(key, value, "a list of names is needed")
        return _distinct(key, value)


def _distinct(key: str, names: list[str]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        raise refused(key, names, "the names repeat")
    if len(names) > MAX_LABELS:
        raise refused(key, len(names), f"at most {MAX_LABELS} names are read")
    if max(map(len, names), default=0) > MAX_LABEL_LENGTH:
        raise refused(key, max(names, key=len), f"a name has at most {MAX_LABEL_LENGTH} characters")
    return tuple(names)


def refused(key: str, value: Any, why: str) -> CheckpointError:
    return CheckpointError(f"{CONFIG_FILE}: {key}: {str(value)[:80]!r}: {why}", field=key)


def read_config(folder: Path) -> ModelConfig:
    """Read and check `folder/config.json`; raises CheckpointError naming the key."""
    data = read_json_object(folder / CONFIG_FILE)
    read = _Reader(data)
    head = _read_head(read)
    _refuse_unsupported(read)
    hidden_size = read.integer("n_embd", 768, 1, MAX_HIDDEN_SIZE)
    num_heads = read.integer("n_head", 12, 1, MAX_HEADS)
    if hidden_size % num_heads:
        raise refused("n_head", num_heads, f"n_embd {hidden_size} is not a multiple of it")
    vocab_size = read.integer("vocab_size", 50257, 1, MAX_VOCAB_SIZE)
    eos_token_id = read.integer("eos_token_id", GPT2_EOS, 0, vocab_size - 1)
    try:
        activation = Activation(read.get("activation_function", "gelu_new"))
    except ValueError:
        choices = ", ".join(item.value for item in Activation)
        raise refused(
            "activation_function", read.get("activation_function", ""), f"not one of {choices}"
        ) from None
    labels = () if head in (Head.LM, Head.TOKEN) else _read_labels(read)
    return ModelConfig(
        head=head,
        num_layers=read.integer("n_layer", 12, 1, MAX_LAYERS),
        num_heads=num_heads,
        hidden_size=hidden_size,
        inner_size=read.integer("n_inner", 4 * hidden_size, 1, 1 << 20),
        vocab_size=vocab_size,
        context_length=read.integer("n_positions", read.get("n_ctx", 1024), 2, MAX_CONTEXT_LENGTH),
        activation=activation,
        layer_norm_epsilon=read.number("layer_norm_epsilon", 1e-5, 0.0, 1.0),
        scale_attention=read.boolean("scale_attn_weights", True),
        scale_by_layer=read.boolean("scale_attn_by_inverse_layer_idx", False),
        tied=read.boolean("tie_word_embeddings", True),
        eos_token_id=eos_token_id,
        pad_token_id=read.integer("pad_token_id", eos_token_id, 0, vocab_size - 1),
        labels=labels,
        slot_labels=_read_slot_labels(read, head),
        nlu_echo=read.boolean("nlu_echo", False),
        problem_type=_read_problem_type(read, labels),
    )


def _read_head(read: _Reader) -> Head:
    names = read.get("architectures", [])
    choices = ", ".join(head.value for head in Head)
    if not isinstance(names, list) or len(names) != 1 or names[0] not in [head.value for head in Head]:
        raise refused("architectures", names, f"one of {choices} is needed")
    model_type = read.get("model_type", "gpt2")
    if model_type != "gpt2":
        raise refused("model_type", model_type, "only gpt2 is supported")
    return Head(names[0])


def _refuse_unsupported(read: _Reader) -> None:
    if read.boolean("add_cross_attention", False):
        raise refused("add_cross_attention", True, "a decoder with cross-attention is not supported")
    for key in ("pruned_heads", "quantization_config"):
        if read.get(key, None):
            raise refused(key, read.get(key, None), "not supported: export the checkpoint before this step")
    # In float32 this flag only reorders a multiplication, so both values give one graph.
    read.boolean("reorder_and_upcast_attn", False)


def _read_labels(read: _Reader) -> tuple[str, ...]:
    """`id2label` in order of the ids; without it LABEL_0 ... as transformers names them."""
    table = read.get("id2label", None)
    if table is None:
        return tuple(f"LABEL_{index}" for index in range(read.integer("num_labels", 2, 1, MAX_LABELS)))
    if not isinstance(table, dict) or not table or not all(isinstance(name, str) for name in table.values()):
        raise refused("id2label", table, "an object from ids to names is needed")
    if set(table) != {str(index) for index in range(len(table))}:
        raise refused("id2label", sorted(table), f"the ids must be 0 to {len(table) - 1}")
    return _distinct("id2label", [table[str(index)] for index in range(len(table))])


def _read_slot_labels(read: _Reader, head: Head) -> tuple[str, ...]:
    if head is Head.TOKEN:
        return _read_labels(read)
    if head is not Head.JOINT:
        return ()
    names = read.names("slot_labels")
    if not names:
        raise refused("slot_labels", [], f"{head.value} needs the list of slot labels")
    return names


def _read_problem_type(read: _Reader, labels: tuple[str, ...]) -> str:
    default = "regression" if len(labels) == 1 else "single_label_classification"
    value = read.get("problem_type", default)
    if value not in PROBLEM_TYPES:
        raise refused("problem_type", value, f"not one of {', '.join(PROBLEM_TYPES)}")
    return str(value)
