"""Batches as the scheduler makes them, for a session alone."""

from __future__ import annotations

from typing import Any

from bench.gpu.checks import Sink
from runtime.contract import Operation
from runtime.request import Request
from runtime.request_state import RequestState, Sequence
from runtime.sampling import SamplingParameters, SequenceSampler
from runtime.scheduler import Chunk, Decode, Prefill

GREEDY: dict[str, Any] = {"temperature": 0}
DRAWN: dict[str, Any] = {"temperature": 0.8, "seed": 1, "top_k": 40}
LISTED: dict[str, Any] = {"temperature": 0, "logprobs": 3}
NUCLEUS: dict[str, Any] = {"temperature": 0.8, "seed": 1, "top_p": 0.9}


def sequence(length: int, **parameters: Any) -> Sequence:
    """Of `length` tokens, in slot 0."""
    chosen = SamplingParameters(**parameters)
    tokens = list(range(1, length + 1))
    state = RequestState(Request("1", "text", parameters=chosen), Sink(), tokens)
    sampler = SequenceSampler(chosen, tokens, 0, with_logprob=False)
    made = Sequence(state, 0, Operation.GENERATE, tokens, first_wanted=length - 1, sampler=sampler)
    made.slot = 0
    return made


def decode(*parameters: dict[str, Any], length: int = 6) -> Decode:
    """One row for each of the parameters, all of them wanted."""
    rows = [sequence(length, **one) for one in parameters]
    for row in rows:
        row.computed = length - 1
    return Decode(rows, list(range(len(rows))))


def prefill(count: int, start: int = 0, rest: int = 0) -> Prefill:
    """`count` tokens from `start` on; `rest` tokens of the prompt are left for later."""
    row = sequence(start + count + rest, **GREEDY)
    row.computed = start
    return Prefill([Chunk(row, count)])
