"""The parameters of a request to a model of kind `lm`: each is declared once, in this file.

The engine's reader (`runtime/sampling/parsing.py`), the schemas of the tasks and those of OpenAI's routes are
built from these declarations. Standard library only, because the façade reads them too.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime.contract import shown
from runtime.grammar import FORMS, Grammar

DEFAULT_MAX_TOKENS = 64  # of a choice that sets no `max_tokens`, where the context has room for them
MAX_STOP_STRINGS = 16
MAX_STOP_LENGTH = 256  # characters
MAX_CALLER_LENGTH = 128  # characters
MAX_BIASED_TOKENS = 1024
MAX_BIAS = 100  # as OpenAI limits it, to both sides
MOST_URGENT, LEAST_URGENT = -100, 100  # priorities: the lower is served sooner, as in vLLM
WITH_GRAMMAR = "not with a grammar: its text ends with the end-of-text token"
TOP_K_OFF = -1  # as vLLM writes it; the engine's own value is 0

MAX_INT32, MAX_INT64 = 2**31 - 1, 2**63 - 1

# As in vLLM, a temperature so small that only the largest logit can win means greedy.
GREEDY_TEMPERATURE = 1e-5


@dataclass(frozen=True, slots=True)
class Limits:
    """The range of a number. `high` is part of it, and so is `low` unless `above_low` is set."""

    low: float
    high: float
    above_low: bool = False

    def __contains__(self, number: float) -> bool:
        return (number > self.low if self.above_low else number >= self.low) and number <= self.high

    def __str__(self) -> str:
        if self.above_low:
            return f"above {_figure(self.low)} and at most {_figure(self.high)}"
        return f"from {_figure(self.low)} to {_figure(self.high)}"


@dataclass(frozen=True, slots=True)
class Parameter:
    type: type  # of its values: float, int, bool, str, tuple for several strings, Mapping by token id
    default: Any  # null in a request means the default
    help: str
    limits: Limits | None = None  # of a number

    @property
    def range(self) -> Limits:
        """The limits of a parameter that is a number. Raises ValueError for another one."""
        if self.limits is None:
            raise ValueError(f"{self} has no limits")
        return self.limits


def _declared(default: Any, text: str, limits: Limits | None = None) -> Any:
    """A field of SamplingParameters that `PARAMETERS` lists with its help and limits."""
    return field(default=default, metadata={"help": text, "limits": limits})


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """How one request chooses its tokens, when it ends, and how it waits for its turn."""

    max_tokens: int | None = _declared(
        None,
        f"Most tokens per choice; default: {DEFAULT_MAX_TOKENS}, or what the context has left. "
        "0 only with echo.",
        Limits(0, MAX_INT32),
    )
    clamp_max_tokens: bool = _declared(
        False, "Cut max_tokens to what the context has left, in place of refusing a larger one."
    )
    min_tokens: int = _declared(
        0, "No end-of-text token and no stop string ends a choice of fewer tokens.", Limits(0, MAX_INT32)
    )
    temperature: float = _declared(1.0, "0 takes the likeliest token each time.", Limits(0, 100))
    top_k: int = _declared(
        0, f"Keep the k likeliest tokens; 0 and {TOP_K_OFF} keep all.", Limits(TOP_K_OFF, MAX_INT32)
    )
    top_p: float = _declared(
        1.0,
        "Keep the likeliest tokens that together reach this probability; 0 keeps the likeliest one.",
        Limits(0, 1),
    )
    min_p: float = _declared(0.0, "Drop tokens below this share of the likeliest one.", Limits(0, 1))
    repetition_penalty: float = _declared(1.0, "Above 1 makes tokens seen before rarer.", Limits(0.01, 100))
    presence_penalty: float = _declared(0.0, "Taken once off tokens generated before.", Limits(-2, 2))
    frequency_penalty: float = _declared(0.0, "Taken off a token per time it was generated.", Limits(-2, 2))
    logit_bias: Mapping[int, float] | None = _declared(
        None,
        f"Added to the logits of token ids, from -{MAX_BIAS} to {MAX_BIAS}; at most {MAX_BIASED_TOKENS}.",
    )
    stop: tuple[str, ...] = _declared(
        (), f"Text that ends a choice and is not part of it; at most {MAX_STOP_STRINGS}."
    )
    seed: int | None = _declared(
        None,
        "Same seed, same answer. Each prompt of a list is answered as if it were asked alone, so that equal "
        "prompts get equal answers; the choices of one prompt differ.",
        Limits(0, MAX_INT64),
    )
    n: int = _declared(1, "Choices per prompt.", Limits(1, 16))
    best_of: int | None = _declared(
        None,
        "Number of choices that are generated; the n of them whose tokens are likeliest on average are the "
        "answer. Default: n. A stream has no more than n.",
        Limits(1, 20),
    )
    logprobs: int | None = _declared(
        None, "Log-probability of each token, and this number of alternatives to it.", Limits(0, 20)
    )
    echo: bool = _declared(False, "Begin each choice with its prompt.")
    deadline_ms: int | None = _declared(
        None,
        "Milliseconds from arrival after which the task expires (504). "
        "What cannot be done by then is refused (429).",
        Limits(1, 24 * 60 * 60 * 1000),
    )
    priority: int = _declared(
        0,
        "Lower is served sooner where requests wait for a language model, and asynchronous tasks "
        "for a worker. Within one priority, callers share equally. Models with a trained head have no queue.",
        Limits(MOST_URGENT, LEAST_URGENT),
    )
    caller: str = _declared("", "The name under which requests share the engine with those of others.")
    ignore_eos: bool = _declared(False, "Go on after the end-of-text token.")
    receipt: bool = _declared(
        False,
        "Add a receipt to the answer, with which `lmaas replay` makes it again and compares every bit. "
        "Without a seed, one is drawn.",
    )
    special_tokens: bool = _declared(
        True,
        "Read a special token that is spelled out in a text, such as <|endoftext|>, as that token, as "
        "transformers does. false: as plain characters, for text that is not trusted.",
    )
    grammar: Grammar | None = None  # that FORMS ask for

    @property
    def is_greedy(self) -> bool:
        return self.temperature < GREEDY_TEMPERATURE

    @property
    def num_sequences(self) -> int:
        """Choices that are generated for a prompt; the answer has `n` of them."""
        return self.n if self.best_of is None else self.best_of

    @property
    def effective(self) -> dict[str, Any]:
        """What decides the text of a request whose `max_tokens` is known, as JSON has it."""
        others = {*SHARED_PARAMETERS, "receipt", "clamp_max_tokens"}
        given = {name: getattr(self, name) for name in PARAMETERS if name not in others}
        if self.grammar is not None:
            given["structured_outputs"] = self.grammar.to_json()
        if self.logit_bias is not None:
            given["logit_bias"] = {str(token): bias for token, bias in self.logit_bias.items()}
        given["stop"] = list(self.stop)
        return {name: value for name, value in given.items() if value is not None}

    @property
    def has_penalties(self) -> bool:
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0


def _table() -> dict[str, Parameter]:
    hints = typing.get_type_hints(SamplingParameters)
    return {
        item.name: Parameter(_value_type(hints[item.name]), item.default, **item.metadata)
        for item in dataclasses.fields(SamplingParameters)
        if item.metadata
    }


def _value_type(hint: Any) -> type:
    """`int` of `int | None`, and `tuple` of `tuple[str, ...]`."""
    if type(None) in typing.get_args(hint):
        hint = typing.get_args(hint)[0]
    found: type = typing.get_origin(hint) or hint
    return found


PARAMETERS: Mapping[str, Parameter] = _table()
# What a request of any operation may carry: the engine's queue reads it.
QUEUE_PARAMETERS = ("deadline_ms", "priority", "caller")
# What a request of any operation may carry.
SHARED_PARAMETERS = (*QUEUE_PARAMETERS, "special_tokens")
# What decides over the text of a request of operation `generate`.
GENERATION_PARAMETERS = (*(name for name in PARAMETERS if name not in SHARED_PARAMETERS), *FORMS)
# What a model may set for requests that do not (generation_config.json), as with vLLM.
MODEL_DEFAULTS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
# `top_k` of operation `next`.
NUM_CANDIDATES = Parameter(int, 10, "How many candidates.", Limits(1, 1000))

# Parameters of OpenAI, vLLM and their clients that change no answer here, whatever their value is.
IGNORED_PARAMETERS = frozenset(
    {
        "user", "safety_identifier", "store", "metadata", "service_tier", "prompt_cache_key",
        "prompt_cache_retention", "request_id", "cache_salt", "add_special_tokens", "parallel_tool_calls",
        "prediction", "reasoning_effort", "verbosity", "guided_decoding_backend",
    }
)  # fmt: skip
# Parameters that would change an answer in a way that is not possible here, each with the value that changes
# nothing: that one is accepted, as is null.
NEUTRAL_PARAMETERS: Mapping[str, Any] = {
    "suffix": "",
    "dimensions": None,
    "stop_token_ids": [],
    "bad_words": [],
    "allowed_token_ids": None,
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
    "include_stop_str_in_output": False,
    "use_beam_search": False,
    "length_penalty": 1.0,
    "early_stopping": False,
    "prompt_logprobs": None,
    "truncate_prompt_tokens": None,
    "detokenize": True,
    "return_token_ids": False,
    "return_tokens_as_token_ids": False,
    "logits_processors": None,
    "kv_transfer_params": None,
    "vllm_xargs": None,
    "prompt_embeds": None,
    "guided_whitespace_pattern": None,
    "modalities": ["text"],
    "tools": [],
    "functions": [],
    "function_call": "none",
    "audio": None,
    "web_search_options": None,
    "chat_template": None,
    "chat_template_kwargs": {},
    "documents": None,
    "continue_final_message": False,
}


def why_not_neutral(name: str, value: Any) -> str | None:
    """What to answer to a value that would change something; None where it changes nothing.

    `name` is one of NEUTRAL_PARAMETERS.
    """
    neutral = NEUTRAL_PARAMETERS[name]
    if value is None or _same(value, neutral):
        return None
    wanted = json.dumps(neutral)
    return f"{shown(value)} is not supported; the only possible value is {wanted}, or leave it out"


def _same(value: Any, neutral: Any) -> bool:
    if isinstance(value, str) and not isinstance(neutral, str):  # vLLM's clients send every value as text
        return value.strip().lower() == json.dumps(neutral)
    if isinstance(value, bool) or isinstance(neutral, bool):
        return value is neutral
    return bool(value == neutral)


def _figure(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else str(number)
