"""A request while the engine works on it, its sequences, and the events that report the work.

| field                             | owner                                                     |
| --------------------------------- | --------------------------------------------------------- |
| request, sink, prompt, output     | set before the step thread sees it, then read only        |
| sequences, times, closed          | the step thread                                           |
| num_waiting                       | the queue limits, under their lock                        |
| streaming, answered, the output's | the output thread                                         |
| own fields                        |                                                           |
| every field of a Sequence         | the step thread, once it has the request                  |
"""

from __future__ import annotations

import time
from collections.abc import Container
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.contract import Fault, FinishReason, Operation
from runtime.messages import Answer, Timings
from runtime.request import Request
from runtime.sampling import Sampled, SequenceSampler

if TYPE_CHECKING:
    from runtime.masks.client import TokenMasks


class Sink(Protocol):
    """Receives the answers of one request, from one thread; the last call is `send(final=True)` or `fail`.

    A `send` that raises has sent nothing; a `fail` follows.
    """

    def send(self, answer: Answer, *, final: bool) -> None: ...

    def fail(self, fault: Fault) -> None: ...


class OutputProcessor(Protocol):
    """Builds the answers of one request from its events."""

    def add(self, event: Event) -> None: ...

    @property
    def complete(self) -> bool:
        """Whether the next answer is the last."""

    def next_answer(self) -> tuple[Answer, bool] | None:
        """The answer that can be sent now, and whether it is the last."""


class RequestState:
    """A request with all that the engine knows of it."""

    def __init__(self, request: Request, sink: Sink, prompt: list[int]) -> None:
        self.request = request
        self.sink = sink
        self.prompt = prompt
        self.sequences: list[Sequence] = []
        self.num_waiting = 0  # sequences without a slot yet
        self.output: OutputProcessor
        # Times on the monotonic clock: the first run, the first token, the end of the last sequence.
        self.started: float | None = None
        self.first_token: float | None = None
        self.finished: float | None = None
        self.closed = False  # no further event follows
        self.streaming = False  # the sink got an answer, and gets another one
        self.answered = False  # the sink has had its last call
        self._masks: TokenMasks | None = None  # of a request with a grammar

    def follow(self, masks: TokenMasks) -> None:
        """Its sequences follow the grammar of `masks`, which `close_masks` closes."""
        self._masks = masks
        for sequence in self.sequences:
            if sequence.sampler is not None:
                index = sequence.index
                sequence.sampler.follow(partial(masks.of, index), partial(masks.advance, index))

    def close_masks(self) -> None:
        if self._masks is not None:
            self._masks.close()
            self._masks = None

    @property
    def num_tokens(self) -> int:
        """What the request counts for in the queue."""
        return sum(sequence.num_prompt for sequence in self.sequences)

    @property
    def is_done(self) -> bool:
        return all(sequence.finish_reason is not None for sequence in self.sequences)

    @property
    def timings(self) -> Timings:
        """Of a finished request, or up to now: the output thread sees a stop string before the core does."""
        finished = time.monotonic() if self.finished is None else self.finished
        started = finished if self.started is None else self.started
        first_token = finished if self.first_token is None else self.first_token
        return Timings(started - self.request.arrived, first_token - started, finished - first_token)


class SequenceStatus(Enum):
    WAITING = "waiting"  # no slot yet, or preempted
    RUNNING = "running"  # owns a slot
    FINISHED = "finished"  # owns nothing; `finish_reason` says why


class Sequence:
    """Tokens, how many of them are in the KV cache, and which output rows are wanted.

    positions   0 ........ computed ........ end
                in the KV cache  |  still to be run
                    first_wanted ... end      their output rows (logits, or hidden states to embed) are wanted

    Scheduler, cache and session share it, and know nothing else of each other.
    """

    __slots__ = (
        "caller", "computed", "finish_reason", "first_wanted", "generates", "hidden_sum", "index",
        "max_length", "need", "num_prompt", "operation", "priority", "sampler", "saved_rows", "slot", "state",
        "status", "stop_at_eos", "tokens",
    )  # fmt: skip

    def __init__(
        self,
        state: RequestState,
        index: int,
        operation: Operation,
        tokens: list[int],
        *,
        first_wanted: int,
        max_new_tokens: int = 0,
        sampler: SequenceSampler | None = None,
        stop_at_eos: bool = True,
    ) -> None:
        self.state = state
        self.index = index  # the choice or continuation of its request
        self.priority = state.request.parameters.priority
        self.caller = state.request.parameters.caller
        self.operation = operation
        self.generates = operation is Operation.GENERATE
        self.tokens = tokens
        self.num_prompt = len(tokens)
        self.first_wanted = first_wanted
        self.max_length = len(tokens) + max_new_tokens
        # Rows of the KV cache that are promised to it; a scored text needs none for its last token.
        self.need = self.max_length - (operation is Operation.SCORE)
        self.sampler = sampler
        self.stop_at_eos = stop_at_eos
        self.status = SequenceStatus.WAITING
        self.slot = -1
        self.computed = 0
        # Of the KV cache, while it is preempted: it waits for its second slot, and goes on where it was.
        self.saved_rows: list[NDArray[Any]] | None = None
        # [hidden], the sum over the rows that were run; operation `embed`.
        self.hidden_sum: NDArray[np.float32] | None = None
        self.finish_reason: FinishReason | None = None

    @property
    def end(self) -> int:
        """Positions to run: a scored text needs no output after its last token."""
        return len(self.tokens) - (self.operation is Operation.SCORE)

    @property
    def is_decoding(self) -> bool:
        """It generates, and only its newest token is still to be run."""
        return self.generates and len(self.tokens) - self.computed == 1

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def reusable(self) -> int:
        """How many leading positions may come from another sequence's cache rows instead of being run."""
        # A token that was generated leaves rows with other last bits than one that was read, and an answer
        # with a receipt is to be made again to the last bit, whatever is in the cache then.
        if self.state.request.parameters.receipt:
            return 0
        return max(0, min(self.first_wanted, self.end - 1))

    def ending(self, ends: Container[int]) -> FinishReason | None:
        """Why the newest token is the last one, if it is; `ends` are the tokens that end a text."""
        if self.stop_at_eos and self.tokens[-1] in ends:
            return FinishReason.STOP
        return FinishReason.LENGTH if len(self.tokens) >= self.max_length else None


class TokenEvent(NamedTuple):
    """A sequence has one more token; with a reason, it ended with this token."""

    state: RequestState
    sequence_index: int
    sampled: Sampled
    reason: FinishReason | None


class ScoredEvent(NamedTuple):
    """Given tokens of a sequence got their log-probabilities, in order."""

    state: RequestState
    sequence_index: int
    scored: list[Sampled]


class RanksEvent(NamedTuple):
    """The likeliest next tokens, (token id, logprob), likeliest first."""

    state: RequestState
    candidates: list[tuple[int, float]]


class VectorEvent(NamedTuple):
    """The embedding [hidden] float32 of the prompt, of length 1."""

    state: RequestState
    vector: NDArray[np.float32]


class DoneEvent(NamedTuple):
    """A sequence that generates no tokens is done."""

    state: RequestState
    sequence_index: int


class FaultEvent(NamedTuple):
    state: RequestState
    fault: Fault


Event = TokenEvent | ScoredEvent | RanksEvent | VectorEvent | DoneEvent | FaultEvent
