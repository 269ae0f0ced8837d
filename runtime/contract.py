"""The names that every folder shares: kinds, variants, operations, tensors, finish reasons and faults.

Beside it stand `runtime/manifest.py` (the description of an artifact), `runtime/config.py` (the settings of
an engine), `runtime/parameters.py` (what a request asks for) and `runtime/messages.py` (what the engine
answers). The other rooms import these files; therefore they need the standard library only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

TOKENIZER_FILE = "tokenizer.json"
ENGINE_FILE = "engine.json"
GRAPH_FILE = "model.onnx"
BACKEND_NAME = "lmaas"
FALLBACK_METRIC = "lmaas_engine_fallback_timestamp_seconds"  # of a model server; its label `reason`
DRAIN_VARIABLE = "LMAAS_DRAIN_SECONDS"  # what a `lmaas triton` gives the requests of its models to end

MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

MAX_HEAD_BATCH = 64  # texts of one request to a head, and of one run of it
MAX_HEAD_CHARACTERS = 8192  # of several texts in one request; bounds how long other requests wait for it
MAX_TOKENIZED = 100_000  # characters, or token ids, of one request of operation `tokenize`
MAX_PROMPT_TOKENS = 1_000_000  # token ids of one prompt that are read; the context of a model has fewer


def shown(value: Any) -> str:
    """The value as a message quotes it: one line of ASCII, cut where it is long."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**40:
        return "a number of more than 40 digits"
    if isinstance(value, str) and len(value) > 76:
        value = f"{value[:73]}..."
    text = ascii(value[:80] if isinstance(value, list | tuple) else value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def model_name(text: str) -> str:
    """A legal name of a model that is like `text`: `openai-community-gpt2` of `openai-community/gpt2`."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("._-")[:64] or "model"


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
    TOKENIZE = "tokenize"


class FinishReason(str, Enum):
    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


class FaultCode(str, Enum):
    """Why a request failed, as it travels from the engine through Triton to the façade."""

    INVALID_ARGUMENT = "invalid_argument"
    CONTEXT_LENGTH = "context_length"  # an argument asks for more tokens than the context holds
    QUEUE_FULL = "queue_full"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CANCELLED = "cancelled"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


_FAULT = re.compile(r"(?P<code>\w+)(?: \[(?P<field>[^\]]*)\])?(?: after (?P<seconds>[0-9]{1,9}\.[0-9]) s)?: ")


@dataclass(frozen=True, slots=True)
class Fault:
    """A failed request in one line: `code: message`, or `code [field] after 2.5 s: message`.

    The field stands there where one is wrong, and the seconds where another attempt may succeed after them.
    Triton carries only text with a streamed error, so the code has to travel inside it.
    """

    code: FaultCode
    message: str
    field: str | None = None
    retry_after: float | None = None  # seconds

    def encode(self) -> str:
        where = f" [{self.field}]" if self.field else ""
        when = "" if self.retry_after is None else f" after {self.retry_after:.1f} s"
        return f"{self.code.value}{where}{when}: {self.message}"

    @classmethod
    def decode(cls, text: str) -> Fault | None:
        """Read the text that `encode` wrote; None for any other text."""
        found = _FAULT.match(text)
        if found is None or found["code"] not in FaultCode._value2member_map_:
            return None
        seconds = found["seconds"]
        return cls(
            FaultCode(found["code"]),
            text[found.end() :],
            found["field"],
            None if seconds is None else float(seconds),
        )


class LmTensors:
    """Triton tensors of kind `lm`: those of its vLLM backend and three more."""

    TEXT_INPUT = "text_input"  # BYTES [1]; empty: the start of a text; `embed` needs a text
    STREAM = "stream"  # BOOL [1], optional
    SAMPLING_PARAMETERS = "sampling_parameters"  # BYTES [1], JSON object, optional
    EXCLUDE_INPUT_IN_OUTPUT = "exclude_input_in_output"  # BOOL [1], optional
    PROMPT_TOKEN_IDS = "prompt_token_ids"  # ours: INT64 [-1], optional; the prompt, where TEXT_INPUT is empty
    OPERATION = "operation"  # ours: BYTES [1], a value of Operation, optional
    TEXT_OUTPUT = "text_output"  # BYTES [-1]
    DETAILS = "details"  # ours: BYTES [1], JSON object
    # Each switch asks for the output of the same name without its `return_`.
    SWITCHES = (
        "return_finish_reason",  # -> finish_reason BYTES [-1]
        "return_cumulative_logprob",  # -> cumulative_logprob FP32 [-1]
        "return_logprobs",  # -> logprobs BYTES [-1]
        "return_token_ids",  # -> token_ids INT64 [-1]
        "return_num_input_tokens",  # -> num_input_tokens UINT32 [1]
        "return_num_output_tokens",  # -> num_output_tokens UINT32 [-1]
    )


class HeadTensors:
    """Triton tensors of kinds `classifier` and `nlu`; batched, so each shape has the batch in front.

    A request has up to MAX_HEAD_BATCH rows and fails as a whole. Where it has several, the field of the fault
    names the wrong one: `text.3` is the text of the fourth row.
    """

    TEXT = "text"  # BYTES [1]
    TEXT_PAIR = "text_pair"  # BYTES [1], optional
    TEMPERATURE = "temperature"  # FP32 [1], optional: the label logits are divided by it; not of a regression
    SPECIAL_TOKENS = "special_tokens"  # BOOL [1], optional: false reads them in a text as plain characters
    SCORES = "scores"  # FP32 [labels]
    LABEL = "label"  # BYTES [1]
    SLOTS = "slots"  # BYTES [1], JSON array of {name, value, start, end, score}; kind `nlu` only


def _tensor(name: str, kind: str, dims: tuple[int, ...] = (1,), **more: bool) -> dict[str, Any]:
    return {"name": name, "data_type": f"TYPE_{kind}", "dims": list(dims), **more}


def model_config(kind: Kind) -> dict[str, Any]:
    """Tensors and batching of a kind, as the JSON form of Triton's `ModelConfig`."""
    if kind is Kind.LM:
        # The engine batches by itself: it takes every request at once and answers each in many responses.
        return {
            "max_batch_size": 0,
            "model_transaction_policy": {"decoupled": True},
            "input": [
                _tensor(LmTensors.TEXT_INPUT, "STRING", optional=False),
                _tensor(LmTensors.PROMPT_TOKEN_IDS, "INT64", (-1,), optional=True),
                _tensor(LmTensors.SAMPLING_PARAMETERS, "STRING", optional=True),
                _tensor(LmTensors.OPERATION, "STRING", optional=True),
                *(
                    _tensor(name, "BOOL", optional=True)
                    for name in (LmTensors.STREAM, LmTensors.EXCLUDE_INPUT_IN_OUTPUT, *LmTensors.SWITCHES)
                ),
            ],
            "output": [
                _tensor(LmTensors.TEXT_OUTPUT, "STRING", (-1,)),
                _tensor(LmTensors.DETAILS, "STRING"),
                _tensor("finish_reason", "STRING", (-1,)),
                _tensor("cumulative_logprob", "FP32", (-1,)),
                _tensor("logprobs", "STRING", (-1,)),
                _tensor("token_ids", "INT64", (-1,)),
                _tensor("num_input_tokens", "UINT32"),
                _tensor("num_output_tokens", "UINT32", (-1,)),
            ],
        }
    return {
        "max_batch_size": MAX_HEAD_BATCH,
        "dynamic_batching": {},
        "input": [
            _tensor(HeadTensors.TEXT, "STRING", optional=False),
            _tensor(HeadTensors.TEXT_PAIR, "STRING", optional=True),
            _tensor(HeadTensors.TEMPERATURE, "FP32", optional=True),
            _tensor(HeadTensors.SPECIAL_TOKENS, "BOOL", optional=True),
        ],
        # All versions of a model share this, and they may differ in their labels.
        "output": [
            _tensor(HeadTensors.SCORES, "FP32", (-1,)),
            _tensor(HeadTensors.LABEL, "STRING"),
            *([_tensor(HeadTensors.SLOTS, "STRING")] if kind is Kind.NLU else []),
        ],
    }


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


def without_padding(ids: list[int], pad_token_id: int | None) -> list[int]:
    """The tokens of a row up to the last one that is not padding; the first token where all are padding.

    At the last of these tokens GPT2ForSequenceClassification of transformers answers, also where a text or
    the template ends in the padding token. Attention is causal: the tokens after it do not count.
    """
    length = len(ids)
    while length > 1 and ids[length - 1] == pad_token_id:
        length -= 1
    return ids[:length]


def is_byte_level(decoder: Any) -> bool:
    """Whether the `decoder` of a tokenizer.json only joins byte-level tokens.

    The engine streams the text of a language model byte by byte, which no other decoder allows.
    """
    while isinstance(decoder, dict) and decoder.get("type") == "Sequence":
        parts = decoder.get("decoders")
        if not isinstance(parts, list) or len(parts) != 1:
            return False
        decoder = parts[0]
    return isinstance(decoder, dict) and decoder.get("type") == "ByteLevel"


class HeadGraph:
    """Inputs and outputs of the `classifier` and `nlu` graphs; rows are padded on the right."""

    INPUT_IDS = "input_ids"  # [batch, sequence] int64
    LENGTHS = "lengths"  # [batch] int64, tokens of each row; a classifier answers at the last of them
    LOGITS = "logits"  # [batch, labels] float32: classes of a classifier, intents of an nlu model
    SLOT_LOGITS = "slot_logits"  # [batch, sequence, slot_labels] float32; kind `nlu` only
    # [slot_labels + 1, slot_labels] float32, the same for every input: where the manifest says so
    SLOT_TRANSITIONS = "slot_transitions"
