"""What a caller asks of a model of kind `lm`, checked as far as that goes without the model."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime.contract import Operation
from runtime.errors import RequestFault
from runtime.sampling import SamplingParameters, parse_sampling_parameters

DEFAULT_CANDIDATES = 10
MAX_CANDIDATES = 1000

# Operations that choose no tokens take their own parameters and those of the queue, and refuse the others.
_OF_THE_QUEUE = ("deadline_ms", "priority", "caller")
_OWN_PARAMETERS = {
    Operation.SCORE: ("continuations", *_OF_THE_QUEUE),
    Operation.NEXT: ("top_k", *_OF_THE_QUEUE),
    Operation.EMBED: _OF_THE_QUEUE,
}


@dataclass(frozen=True, slots=True)
class Request:
    request_id: str
    text: str
    operation: Operation = Operation.GENERATE
    parameters: SamplingParameters = field(default_factory=SamplingParameters)
    stream: bool = False
    continuations: tuple[str, ...] = ()  # operation `score`
    num_candidates: int = DEFAULT_CANDIDATES  # operation `next`
    with_logprob: bool = True  # whether somebody will look at the log-probabilities of generated tokens
    arrived: float = field(default_factory=time.monotonic)  # seconds

    @property
    def deadline(self) -> float | None:
        """On the clock of `arrived`, seconds."""
        milliseconds = self.parameters.deadline_ms
        return None if milliseconds is None else self.arrived + milliseconds / 1000


def parse_request(
    request_id: str, text: str, operation: Operation, data: Mapping[str, Any], *, stream: bool
) -> Request:
    """Read the JSON object `sampling_parameters`; raises RequestFault naming the field."""
    if operation is Operation.GENERATE:
        return Request(request_id, text, operation, parse_sampling_parameters(data), stream)
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
    common = {name: value for name, value in data.items() if name in _OF_THE_QUEUE}
    return Request(
        request_id,
        text,
        operation,
        parse_sampling_parameters(common),
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
        return DEFAULT_CANDIDATES
    # The same conversions as everywhere, numeric strings among them.
    number = parse_sampling_parameters({"top_k": value}).top_k
    if not 1 <= number <= MAX_CANDIDATES:
        raise RequestFault.invalid("top_k", f"{number} is out of range; it goes from 1 to {MAX_CANDIDATES}")
    return number
