"""The names that every folder shares: kinds, variants, tensors, finish reasons, faults and the manifest.

Standard library only, so that façade, exporter and engine can read it without pulling each other in.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

MANIFEST_SCHEMA_VERSION = 2
MANIFEST_FILE = "manifest.json"
TOKENIZER_FILE = "tokenizer.json"
ENGINE_FILE = "engine.json"
GRAPH_FILE = "model.onnx"
BACKEND_NAME = "lmaas"

MOST_URGENT, LEAST_URGENT = -100, 100  # priorities of a request: the lower is served sooner, as in vLLM
MAX_CALLER_LENGTH = 128  # characters of the name under which a caller shares the engine with others
MAX_HEAD_BATCH = 64  # texts of one request to a head, and of one run of it
MAX_RELAY_NAME = 64  # characters
MAX_HEAD_CHARACTERS = 8192  # of several texts in one request, so that it holds up no other for long


class Kind(str, Enum):
    """What a checkpoint answers; decides graph, tensors and adapter."""

    LM = "lm"
    CLASSIFIER = "classifier"
    NLU = "nlu"


class Variant(str, Enum):
    """One precision of an artifact."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    INT4 = "int4"


class Device(str, Enum):
    """What a server computes on."""

    CPU = "cpu"
    CUDA = "cuda"


class Operation(str, Enum):
    """What a request asks of a model of kind `lm`."""

    GENERATE = "generate"
    SCORE = "score"
    NEXT = "next"
    EMBED = "embed"


class FinishReason(str, Enum):
    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


class FaultCode(str, Enum):
    """Why a request failed, as it travels from the engine through Triton to the façade."""

    INVALID_ARGUMENT = "invalid_argument"
    QUEUE_FULL = "queue_full"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CANCELLED = "cancelled"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Fault:
    """A failed request in one line: `code: message`, or `code [field]: message` with the field to blame.

    Triton carries only text with a streamed error, so the code has to travel inside it.
    """

    code: FaultCode
    message: str
    field: str | None = None

    def encode(self) -> str:
        where = f" [{self.field}]" if self.field else ""
        return f"{self.code.value}{where}: {self.message}"

    @classmethod
    def decode(cls, text: str) -> Fault | None:
        """Read `encode`'s text back; None where the text is not a fault of ours."""
        head, separator, message = text.partition(": ")
        name, _, where = head.partition(" [")
        if not separator or name not in FaultCode._value2member_map_:
            return None
        return cls(FaultCode(name), message, where.removesuffix("]") or None)


class LmTensors:
    """Triton tensors of kind `lm`: those of its vLLM backend, then `operation` and `details`, ours."""

    TEXT_INPUT = "text_input"  # BYTES [1]
    STREAM = "stream"  # BOOL [1], optional
    SAMPLING_PARAMETERS = "sampling_parameters"  # BYTES [1], JSON object, optional
    EXCLUDE_INPUT_IN_OUTPUT = "exclude_input_in_output"  # BOOL [1], optional
    OPERATION = "operation"  # BYTES [1], a value of Operation, optional
    TEXT_OUTPUT = "text_output"  # BYTES [-1]
    DETAILS = "details"  # BYTES [1], JSON object
    # Each switch asks for the output of the same name without its `return_`.
    SWITCHES = (
        "return_finish_reason",  # -> finish_reason BYTES [-1]
        "return_cumulative_logprob",  # -> cumulative_logprob FP32 [-1]
        "return_logprobs",  # -> logprobs BYTES [-1]
        "return_token_ids",  # -> token_ids INT64 [-1]
        "return_num_input_tokens",  # -> num_input_tokens UINT32 [1]
        "return_num_output_tokens",  # -> num_output_tokens UINT32 [-1]
    )


class RelayParameters:
    """Parameters of an `lm` request for a client that follows many streams at once.

    With RELAY alone, a name of the client's choice, the request stays open and is a relay: its responses hold
    as `details` a JSON array of `[key, details]`, empty in the first. With both, those responses of the
    request that are not its last go to that relay; its last has their number as RELAYED in its `details`.
    Where there is no such relay, or other outputs than `details` are wanted, all responses are its own; once
    the relay is over, those that are left.
    """

    RELAY = "relay"  # string of 1 to MAX_RELAY_NAME characters
    KEY = "relay_key"  # integer
    NAMES = (RELAY, KEY)
    RELAYED = "relayed"


class HeadTensors:
    """Triton tensors of kinds `classifier` and `nlu`; batched, so each shape has the batch in front.

    A request has up to MAX_HEAD_BATCH rows and fails whole. Where it has several, the fault's field names the
    one to blame: `text.3` is the fourth row's text.
    """

    TEXT = "text"  # BYTES [1]
    TEXT_PAIR = "text_pair"  # BYTES [1], optional
    SCORES = "scores"  # FP32 [labels]
    LABEL = "label"  # BYTES [1]
    SLOTS = "slots"  # BYTES [1], JSON array of {name, value, start, end, score}; kind `nlu` only


class LmGraph:
    """Inputs and outputs of an `lm` graph. `rows` counts the positions whose logits are wanted."""

    INPUT_IDS = "input_ids"  # [batch, sequence] int64
    POSITION_IDS = "position_ids"  # [batch, sequence] int64
    SEQLENS_K = "seqlens_k"  # [batch] int32: tokens in the cache after this run, less one
    TOTAL_SEQUENCE_LENGTH = "total_sequence_length"  # [] int32: the longest row after this run
    LOGIT_ROWS = "logit_rows"  # [rows] int64: indices into batch * sequence
    LOGITS = "logits"  # [rows, vocab] float32
    HIDDEN = "hidden"  # [rows, hidden] float32, after the last norm

    @staticmethod
    def past_key(layer: int) -> str:
        """`[batch, heads, context, head_size]`, float32 or float16; past and present are one buffer."""
        return f"past_key.{layer}"

    @staticmethod
    def past_value(layer: int) -> str:
        return f"past_value.{layer}"

    @staticmethod
    def present_key(layer: int) -> str:
        return f"present_key.{layer}"

    @staticmethod
    def present_value(layer: int) -> str:
        return f"present_value.{layer}"


class HeadGraph:
    """Inputs and outputs of the `classifier` and `nlu` graphs; rows are padded on the right."""

    INPUT_IDS = "input_ids"  # [batch, sequence] int64
    LENGTHS = "lengths"  # [batch] int64, tokens of each row
    LOGITS = "logits"  # [batch, labels] float32: classes of a classifier, intents of an nlu model
    SLOT_LOGITS = "slot_logits"  # [batch, sequence, slot_labels] float32; kind `nlu` only


class ManifestError(ValueError):
    """A manifest that is not as this version writes it; the message names the field."""


@dataclass(frozen=True, slots=True)
class Architecture:
    num_layers: int
    num_heads: int
    head_size: int
    hidden_size: int
    vocab_size: int
    context_length: int
    eos_token_id: int
    pad_token_id: int


@dataclass(frozen=True, slots=True)
class FileEntry:
    path: str  # relative to the artifact, forward slashes
    size: int  # bytes
    sha256: str


@dataclass(frozen=True, slots=True)
class GoldenPrompt:
    """An input whose answer is known, replayed after load to prove a build."""

    text: str
    text_pair: str | None = None


@dataclass(frozen=True, slots=True)
class GoldenAnswer:
    """What one variant answered to a golden prompt when it was exported."""

    token_ids: tuple[int, ...] = ()  # lm: the greedy continuation
    logprobs: tuple[float, ...] = ()  # lm: of these tokens
    scores: tuple[float, ...] = ()  # heads: logits of the labels
    slot_scores: tuple[float, ...] = ()  # nlu: logits of the slot labels at the last token


@dataclass(frozen=True, slots=True)
class VariantEntry:
    files: tuple[FileEntry, ...]  # the graph first
    golden: tuple[GoldenAnswer, ...]  # one for each golden prompt of the manifest
    load_seconds: float  # on the machine that exported it, until the golden prompts were answered
    quality: dict[str, float] | None = None  # the quality card: measured differences from fp32

    @property
    def graph(self) -> FileEntry:
        return self.files[0]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def check_golden(self, where: str, kind: Kind, prompts: int) -> None:
        """Raise ManifestError unless there is an answer of this kind to each prompt."""
        if not self.files:
            raise ManifestError(f"{where}.files: a graph is needed")
        if len(self.golden) != prompts:
            raise ManifestError(f"{where}.golden: {len(self.golden)} answers to {prompts} golden prompts")
        for index, answer in enumerate(self.golden):
            given = answer.token_ids if kind is Kind.LM else answer.scores + answer.slot_scores
            if not given:
                raise ManifestError(f"{where}.golden[{index}]: no answer of kind {kind.value}")
            if len(answer.token_ids) != len(answer.logprobs):
                counts = f"{len(answer.token_ids)} tokens, {len(answer.logprobs)} logprobs"
                raise ManifestError(f"{where}.golden[{index}]: {counts}")


@dataclass(frozen=True, slots=True)
class Manifest:
    name: str
    kind: Kind
    architecture: Architecture
    tokenizer: FileEntry
    variants: dict[Variant, VariantEntry]
    labels: tuple[str, ...] = ()  # classes of a classifier, intents of an nlu model
    slot_labels: tuple[str, ...] = ()
    nlu_echo: bool = False  # the model reads ids + [eos] + ids and tags the second copy
    problem_type: str = "single_label_classification"  # as transformers names it
    golden: tuple[GoldenPrompt, ...] = ()
    provenance: dict[str, str] = field(default_factory=dict)
    schema_version: int = MANIFEST_SCHEMA_VERSION

    def to_json(self) -> str:
        return json.dumps(_plain(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Parse and check; raises ManifestError naming the field."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{MANIFEST_FILE}: not JSON ({error})") from None
        manifest = _read(cls, data, "manifest")
        if manifest.schema_version != MANIFEST_SCHEMA_VERSION:
            found = manifest.schema_version
            raise ManifestError(
                f"manifest.schema_version: {found}, but this build reads {MANIFEST_SCHEMA_VERSION}"
            )
        for variant, entry in manifest.variants.items():
            entry.check_golden(f"manifest.variants.{variant.value}", manifest.kind, len(manifest.golden))
        return manifest

    @classmethod
    def load(cls, artifact: Path) -> Manifest:
        return cls.from_json((artifact / MANIFEST_FILE).read_bytes())


def _plain(value: Any) -> Any:
    """Turn dataclasses and enums into what json writes."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


Record = TypeVar("Record")


def _read(record: type[Record], data: Any, where: str) -> Record:
    """Build the dataclass `record` from parsed JSON; raises ManifestError naming the field at fault."""
    if not isinstance(data, dict):
        raise ManifestError(f"{where}: an object is needed, not {type(data).__name__}")
    hints = typing.get_type_hints(record)
    known = {item.name: item for item in dataclasses.fields(record)}  # type: ignore[arg-type]
    for name in data:
        if name not in known:
            raise ManifestError(f"{where}.{_shown(name)[1:-1]}: unknown field")
    values = {}
    for name, item in known.items():
        if name in data:
            values[name] = _value(hints[name], data[name], f"{where}.{name}")
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise ManifestError(f"{where}.{name}: missing")
    return record(**values)


def _value(hint: Any, data: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType or origin is typing.Union:
        return None if data is None else _value(arguments[0], data, where)
    if origin is tuple:
        if not isinstance(data, list):
            raise ManifestError(f"{where}: a list is needed, not {type(data).__name__}")
        return tuple(_value(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(data))
    if origin is dict:
        if not isinstance(data, dict):
            raise ManifestError(f"{where}: an object is needed, not {type(data).__name__}")
        key_hint, item_hint = arguments
        return {
            _value(key_hint, key, where): _value(item_hint, item, f"{where}.{key}")
            for key, item in data.items()
        }
    if dataclasses.is_dataclass(hint):
        return _read(typing.cast("type[Any]", hint), data, where)
    if issubclass(hint, Enum):
        try:
            return hint(data)
        except ValueError:
            choices = ", ".join(str(member.value) for member in hint)
            raise ManifestError(f"{where}: {_shown(data)} is not one of {choices}") from None
    return _scalar(hint, data, where)


def _shown(value: Any) -> str:
    """On one line and short, whatever it is."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _scalar(hint: type, data: Any, where: str) -> Any:
    if hint is float and isinstance(data, int) and not isinstance(data, bool):
        try:
            return float(data)
        except OverflowError:
            raise ManifestError(f"{where}: a number beyond 1e308") from None
    if type(data) is not hint:  # `bool` is an `int`, so isinstance would let true through as 1
        raise ManifestError(f"{where}: {hint.__name__} is needed, not {type(data).__name__}")
    return data
