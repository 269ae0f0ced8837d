"""What a caller asks of a model of kind `lm`, with the checks that need no model."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime.contract import LmTensors, Operation
from runtime.errors import RequestFault
from runtime.parameters import NUM_CANDIDATES, SHARED_PARAMETERS
from runtime.sampling import SamplingParameters, parse_sampling_parameters

# Operations that generate no tokens take their own parameters and the shared ones, and refuse the others.
_OWN_PARAMETERS = {
    Operation.SCORE: ("continuations", *SHARED_PARAMETERS),
    Operation.NEXT: ("top_k", *SHARED_PARAMETERS),
    Operation.EMBED: SHARED_PARAMETERS,
    Operation.TOKENIZE: SHARED_PARAMETERS,
}


@dataclass(frozen=True, slots=True)
class Request:
    request_id: str
    text: str  # the prompt; empty: the start of a text
    operation: Operation = Operation.GENERATE
    parameters: SamplingParameters = field(default_factory=SamplingParameters)
    stream: bool = False
    token_ids: tuple[int, ...] | None = None  # the prompt instead of `text`; not for operation `score`
    continuations: tuple[str, ...] = ()  # operation `score`
    num_candidates: int = NUM_CANDIDATES.default  # operation `next`
    with_logprob: bool = True  # whether the log-probabilities of generated tokens are used
    log_id: str = ""  # by which the log names it beside `request_id`, across processes
    arrived: float = field(default_factory=time.monotonic)  # seconds

    @property
    def deadline(self) -> float | None:
        """On the clock of `arrived`, seconds."""
        milliseconds = self.parameters.deadline_ms
        return None if milliseconds is None else self.arrived + milliseconds / 1000


def parse_request(
    request_id: str,
    text: str,
    operation: Operation,
    data: Mapping[str, Any],
    *,
    stream: bool,
    token_ids: tuple[int, ...] | None = None,
    defaults: Mapping[str, float] | None = None,
) -> Request:
    """Read the JSON object `sampling_parameters`; raises RequestFault naming the field.

    `defaults` are the model's, for what a request to generate does not set.
    """
    if operation is Operation.GENERATE:
        own_values = {name: value for name, value in (defaults or {}).items() if data.get(name) is None}
        data = {**data, **own_values}
        return Request(request_id, text, operation, parse_sampling_parameters(data), stream, token_ids)
    if operation is Operation.SCORE and token_ids is not None:
        raise RequestFault.invalid(LmTensors.PROMPT_TOKEN_IDS, "operation score reads text_input alone")
    if stream:
        raise RequestFault.invalid("stream", f"operation {operation.value} answers once and cannot stream")
    own = _OWN_PARAMETERS[operation]
    for name in data:
        if name not in own:
            known = ", ".join(own)
            raise RequestFault.invalid(
                "sampling_parameters",
                f"{str(name)[:80]!r} means nothing to operation {operation.value}; known are {known}",
            )
    common = {name: value for name, value in data.items() if name in SHARED_PARAMETERS}
    return Request(
        request_id,
        text,
        operation,
        parse_sampling_parameters(common),
        token_ids=token_ids,
        continuations=_continuations(data.get("continuations")) if operation is Operation.SCORE else (),
        num_candidates=_num_candidates(data.get("top_k")),
    )


def _continuations(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise RequestFault.invalid("continuations", "a list of one or more strings is needed")
    for index, item in enumerate(value):
        if not item:
            raise RequestFault.invalid("continuations", f"number {index} is empty; there is nothing to score")
    return tuple(value)


def _num_candidates(value: Any) -> int:
    if value is None:
        return int(NUM_CANDIDATES.default)
    # With the conversions that all parameters have, such as numeric strings.
    number = parse_sampling_parameters({"top_k": value}).top_k
    if number not in NUM_CANDIDATES.range:
        raise RequestFault.invalid("top_k", f"{number} is out of range; it goes {NUM_CANDIDATES.range}")
    return number
