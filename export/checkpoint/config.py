"""config.json of the GPT-2 family, checked and frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from export.checkpoint.config_reader import CONFIG_FILE, MAX_LABELS, ConfigReader, distinct, refused
from export.checkpoint.generation import Generation, read_generation
from export.errors import CheckpointError
from export.reading import read_json_object
from runtime.contract import Kind
from runtime.manifest import Architecture

HEAD_SIZE_STEP = 8  # onnxruntime's GroupQueryAttention needs a multiple of it
GPT2_EOS = 50256  # GPT2Config's default, which older config.json files leave out
MAX_LAYERS = 1024
MAX_HEADS = 1024
MAX_HIDDEN_SIZE = 65_536
MAX_INNER_SIZE = 1 << 20
MAX_VOCAB_SIZE = 4_000_000
MAX_CONTEXT_LENGTH = 1 << 20
# Slot labels of a model that scores each of them after each other one; a word takes 0.04 ms with as many.
MAX_TRANSITION_LABELS = 256
MAX_NGRAM_BUCKETS = 1 << 22
MAX_NGRAM_ORDER = 5  # tokens
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")


class Activation(str, Enum):
    GELU_NEW = "gelu_new"
    GELU_TANH = "gelu_pytorch_tanh"  # the same function as gelu_new, computed by torch
    GELU = "gelu"
    RELU = "relu"

    @classmethod
    def named(cls, name: str) -> Activation | None:
        """By any of transformers' names; None for another function."""
        try:
            return cls(_SAME_ACTIVATION.get(name, name))
        except ValueError:
            return None

    @property
    def lowest(self) -> float:
        """The smallest value of the function."""
        return 0.0 if self is Activation.RELU else -0.171


# transformers' other names of these functions: the same formula, computed in other steps.
_SAME_ACTIVATION = {
    "gelu_fast": "gelu_new",
    "gelu_accurate": "gelu_new",
    "gelu_python_tanh": "gelu_pytorch_tanh",
    "gelu_python": "gelu",
}


class Head(str, Enum):
    """The head on the body; the value is its name in `architectures`."""

    LM = "GPT2LMHeadModel"
    SEQUENCE = "GPT2ForSequenceClassification"
    TOKEN = "GPT2ForTokenClassification"
    JOINT = "GPT2ForJointNlu"

    @property
    def kind(self) -> Kind:
        if self is Head.LM:
            return Kind.LM
        return Kind.CLASSIFIER if self is Head.SEQUENCE else Kind.NLU


# Classes of transformers that are served as a language model, and what is said about that.
_SERVED_AS_LM = {
    "GPT2DoubleHeadsModel": "GPT2DoubleHeadsModel: its language model is served",
    "GPT2Model": "GPT2Model: a body without a head, for embeddings; it generates with its embedding as head",
}
BARE_BODY = "GPT2Model"
_ONE_LABEL = (
    "problem_type: null with one label, taken as regression: the answer is the raw value;"
    " multi_label_classification gives the sigmoid of transformers' pipeline"
)


@dataclass(frozen=True, slots=True)
class Ngrams:
    """A bag of hashed n-grams of tokens beside the body: see export/graph/ngrams.py."""

    buckets: int
    orders: tuple[int, ...]  # lengths of the n-grams, in tokens
    pairs: bool = False  # of two texts it reads the second, with a mark on tokens that the first lacks


@dataclass(frozen=True, slots=True)
class ModelConfig:
    head: Head
    num_layers: int
    num_heads: int  # those of a layer that was not pruned; they share the hidden size
    layer_heads: tuple[int, ...]  # of each layer
    hidden_size: int
    inner_size: int
    layer_neurons: tuple[int, ...]  # the inner size of each layer
    vocab_size: int
    context_length: int
    activation: Activation
    layer_norm_epsilon: float
    scale_attention: bool
    scale_by_layer: bool
    tied: bool
    eos_token_id: int | None  # None: no token ends a text
    pad_token_id: int | None  # None: a classifier always answers at the last token
    more_eos_token_ids: tuple[int, ...] = ()  # that end a text, too
    assumed_head: bool = False  # config.json does not name the class
    labels: tuple[str, ...] = ()
    slot_labels: tuple[str, ...] = ()
    nlu_echo: bool = False
    slot_transitions: bool = False  # there are scores of each tag after each other one
    bidirectional: bool = False  # a token's attention reads the tokens after it too
    ngrams: Ngrams | None = None
    problem_type: str = "single_label_classification"
    sampling: Mapping[str, float] = field(default_factory=dict)  # lm: defaults of requests, by parameter
    notes: tuple[str, ...] = ()  # where serving differs from transformers

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
            more_eos_token_ids=self.more_eos_token_ids,
            layer_heads=self.layer_heads if set(self.layer_heads) != {self.num_heads} else (),
        )

    def attention_scale(self, layer: int) -> float:
        """The factor of query times key, as in GPT2Attention."""
        scale = self.head_size**-0.5 if self.scale_attention else 1.0
        return scale / (layer + 1) if self.scale_by_layer else scale


def cache_head_size(head_size: int) -> int:
    """The width of a head in the cache: the model's own, padded with zeros to HEAD_SIZE_STEP."""
    return -(-head_size // HEAD_SIZE_STEP) * HEAD_SIZE_STEP


def read_config(folder: Path) -> ModelConfig:
    """Read and check `folder/config.json`; raises CheckpointError naming the key."""
    data = read_json_object(folder / CONFIG_FILE)
    read = ConfigReader(data)
    head, notes = _read_head(read)
    _refuse_unsupported(read)
    hidden_size = read.integer("n_embd", 768, 1, MAX_HIDDEN_SIZE)
    num_heads = read.integer("n_head", 12, 1, MAX_HEADS)
    if hidden_size % num_heads:
        raise refused("n_head", num_heads, f"n_embd {hidden_size} is not a multiple of it")
    vocab_size = read.integer("vocab_size", 50257, 1, MAX_VOCAB_SIZE)
    nlu_echo = read.boolean("nlu_echo", False)
    ends = _read_ends(read, vocab_size, needed=head is Head.LM or nlu_echo)
    if nlu_echo and not ends:
        raise refused("eos_token_id", "null", "nlu_echo needs it, between the two copies of a text")
    generation = Generation(tuple(ends))
    if head is Head.LM:
        generation = read_generation(folder, ends, vocab_size)
    labels = () if head in (Head.LM, Head.TOKEN) else _read_labels(read)
    if head is Head.SEQUENCE and len(labels) == 1 and read.get("problem_type", None) is None:
        notes += (_ONE_LABEL,)
    slot_labels = _read_slot_labels(read, head)
    num_layers = read.integer("n_layer", 12, 1, MAX_LAYERS)
    inner_size = read.integer("n_inner", 4 * hidden_size, 1, MAX_INNER_SIZE)
    return ModelConfig(
        head=head,
        num_layers=num_layers,
        num_heads=num_heads,
        layer_heads=read.by_layer("layer_heads", num_layers, num_heads, num_heads),
        hidden_size=hidden_size,
        inner_size=inner_size,
        layer_neurons=read.by_layer("layer_neurons", num_layers, inner_size, MAX_INNER_SIZE),
        vocab_size=vocab_size,
        context_length=read.integer("n_positions", read.get("n_ctx", 1024), 2, MAX_CONTEXT_LENGTH),
        activation=_read_activation(read),
        layer_norm_epsilon=read.number("layer_norm_epsilon", 1e-5, 0.0, 1.0),
        scale_attention=read.boolean("scale_attn_weights", True),
        scale_by_layer=read.boolean("scale_attn_by_inverse_layer_idx", False),
        tied=read.boolean("tie_word_embeddings", True) or read.get("architectures", []) == [BARE_BODY],
        eos_token_id=generation.ends[0] if generation.ends else None,
        more_eos_token_ids=generation.ends[1:] if head is Head.LM else (),
        pad_token_id=read.padding(vocab_size),
        assumed_head=not read.get("architectures", []),
        labels=labels,
        slot_labels=slot_labels,
        nlu_echo=nlu_echo,
        slot_transitions=_read_slot_transitions(read, head, len(slot_labels)),
        bidirectional=_read_bidirectional(read, head),
        ngrams=_read_ngrams(read, head),
        problem_type=_read_problem_type(read, labels),
        sampling=generation.sampling,
        notes=(*notes, *generation.notes),
    )


def _read_ends(read: ConfigReader, vocab_size: int, *, needed: bool) -> list[int]:
    """The tokens that end a text. The default is GPT-2's; none where the vocabulary is too small for that."""
    ends = read.tokens("eos_token_id", vocab_size, GPT2_EOS)
    if all(token < vocab_size for token in ends):
        return ends
    if needed:
        raise CheckpointError(
            f"{CONFIG_FILE}: eos_token_id: absent, which means {GPT2_EOS}, but vocab_size is {vocab_size}:"
            " give the id of the token that ends a text, or null where none does",
            field="eos_token_id",
        )
    return []


def _read_head(read: ConfigReader) -> tuple[Head, tuple[str, ...]]:
    """The head, and notes about what else the class has."""
    model_type = read.get("model_type", "gpt2")
    if model_type != "gpt2":
        raise refused("model_type", model_type, "only gpt2 is supported")
    names = read.get("architectures", [])
    if names == []:
        return Head.LM, (f"architectures: null, taken as {Head.LM.value}",)
    known = [*(head.value for head in Head), *_SERVED_AS_LM]
    if not isinstance(names, list) or len(names) != 1 or names[0] not in known:
        raise refused("architectures", names, f"one of {', '.join(known)} is needed")
    if names[0] in _SERVED_AS_LM:
        return Head.LM, (_SERVED_AS_LM[names[0]],)
    return Head(names[0]), ()


def _read_activation(read: ConfigReader) -> Activation:
    name = read.get("activation_function", Activation.GELU_NEW.value)
    activation = Activation.named(name) if isinstance(name, str) else None
    if activation is None:
        choices = ", ".join([*(item.value for item in Activation), *_SAME_ACTIVATION])
        raise refused(
            "activation_function",
            name,
            f"another function: only {choices} are served; train with one of them",
        )
    return activation


def _refuse_unsupported(read: ConfigReader) -> None:
    if read.boolean("add_cross_attention", False):
        raise refused("add_cross_attention", True, "a decoder with cross-attention is not supported")
    for key in ("pruned_heads", "quantization_config"):
        if read.get(key, None):
            raise refused(key, read.get(key, None), "not supported: export the checkpoint before this step")
    # In float32 this flag only reorders a multiplication, so both values give one graph.
    read.boolean("reorder_and_upcast_attn", False)


def _read_labels(read: ConfigReader) -> tuple[str, ...]:
    """`id2label` in order of the ids; without it LABEL_0 ... as transformers names them."""
    table = read.get("id2label", None)
    if table is None:
        return tuple(f"LABEL_{index}" for index in range(read.integer("num_labels", 2, 1, MAX_LABELS)))
    if not isinstance(table, dict) or not table or not all(isinstance(name, str) for name in table.values()):
        raise refused("id2label", table, "an object from ids to names is needed")
    if set(table) != {str(index) for index in range(len(table))}:
        raise refused("id2label", sorted(table), f"the ids must be 0 to {len(table) - 1}")
    return distinct("id2label", [table[str(index)] for index in range(len(table))])


def _read_slot_labels(read: ConfigReader, head: Head) -> tuple[str, ...]:
    if head is Head.TOKEN:
        return _read_labels(read)
    if head is not Head.JOINT:
        return ()
    names = read.names("slot_labels")
    if not names:
        raise refused("slot_labels", [], f"{head.value} needs the list of slot labels")
    return names


def _read_slot_transitions(read: ConfigReader, head: Head, labels: int) -> bool:
    """The key `slot_transitions` is this project's own."""
    value = read.boolean("slot_transitions", False)
    if value and head is not Head.JOINT:
        raise refused("slot_transitions", value, f"only {Head.JOINT.value} has them, not {head.value}")
    if value and labels > MAX_TRANSITION_LABELS:
        raise refused(
            "slot_transitions",
            value,
            f"{labels} slot labels, but at most {MAX_TRANSITION_LABELS} can have them",
        )
    return value


def _read_bidirectional(read: ConfigReader, head: Head) -> bool:
    """The key `attention` is this project's own: transformers' GPT-2 is causal."""
    value = read.get("attention", "causal")
    if value not in ("causal", "bidirectional"):
        raise refused("attention", value, "not one of causal, bidirectional")
    if value == "bidirectional" and head is Head.LM:
        raise refused("attention", value, f"{head.value} predicts what comes after: causal is needed")
    return bool(value == "bidirectional")


def _read_ngrams(read: ConfigReader, head: Head) -> Ngrams | None:
    """The keys `ngram_buckets`, `ngram_orders` and `ngram_pairs`, which are this project's own."""
    if read.get("ngram_buckets", None) is None and read.get("ngram_orders", None) is None:
        return None
    if head not in (Head.SEQUENCE, Head.JOINT):
        raise refused(
            "ngram_buckets", read.get("ngram_buckets", None), f"{head.value} has no labels of a text"
        )
    buckets = read.integer("ngram_buckets", 0, 1, MAX_NGRAM_BUCKETS)
    orders = read.get("ngram_orders", [])
    known = isinstance(orders, list) and all(type(order) is int for order in orders)
    if not known or not orders or not 1 <= min(orders) <= max(orders) <= MAX_NGRAM_ORDER:
        raise refused(
            "ngram_orders", orders, f"a list of whole numbers from 1 to {MAX_NGRAM_ORDER} is needed"
        )
    if len(set(orders)) != len(orders):
        raise refused("ngram_orders", orders, "the numbers repeat")
    pairs = read.get("ngram_pairs", False)
    if type(pairs) is not bool:
        raise refused("ngram_pairs", pairs, "true or false is needed")
    if pairs and (head is not Head.SEQUENCE or read.get("eos_token_id", None) is None):
        raise refused("ngram_pairs", pairs, "a classifier with an eos_token_id, which ends a text, is needed")
    return Ngrams(buckets, tuple(orders), pairs)


def _read_problem_type(read: ConfigReader, labels: tuple[str, ...]) -> str:
    default = "regression" if len(labels) == 1 else "single_label_classification"
    value = read.get("problem_type", default)
    if value not in PROBLEM_TYPES:
        raise refused("problem_type", value, f"not one of {', '.join(PROBLEM_TYPES)}")
    return str(value)
