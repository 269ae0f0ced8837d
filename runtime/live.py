"""A request while the engine works on it, and the events that report the work.

| field                             | owner                                                     |
| --------------------------------- | --------------------------------------------------------- |
| request, sink, prompt, assembly   | set before the step thread sees it, then read only        |
| sequences, the stamps, closed     | the step thread                                           |
| num_waiting                       | the queue's places, under their lock                      |
| answered, and inside of assembly  | the delivery thread                                       |
"""

from __future__ import annotations

import time
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.answers import Answer, Timings
from runtime.contract import Fault, FinishReason
from runtime.request import Request
from runtime.sampling import Sampled
from runtime.sequence import Sequence


class Sink(Protocol):
    """Where the answers of one request go. One thread calls; the end is a `send(final=True)` or a `fail`.

    A `send` that raises has sent nothing; a `fail` follows.
    """

    def send(self, answer: Answer, *, final: bool) -> None: ...

    def fail(self, fault: Fault) -> None: ...


class Assembly(Protocol):
    """Builds the answers of one request out of events."""

    def add(self, event: Event) -> None: ...

    @property
    def complete(self) -> bool:
        """Whether what comes next is the last."""

    def take(self) -> tuple[Answer, bool] | None:
        """What can be sent now, and whether it is the last."""


class LiveRequest:
    def __init__(self, request: Request, sink: Sink, prompt: list[int]) -> None:
        self.request = request
        self.sink = sink
        self.prompt = prompt
        self.sequences: list[Sequence] = []
        self.num_waiting = 0  # of these, those that wait for a slot
        self.assembly: Assembly
        self.started: float | None = (
            None  # seconds, as the next two: first run, first token, last sequence done
        )
        self.first_token: float | None = None
        self.finished: float | None = None
        self.closed = False  # no further event may come
        self.answered = False  # the sink has had its last call

    @property
    def num_tokens(self) -> int:
        """What the request weighs in the queue."""
        return sum(sequence.num_prompt for sequence in self.sequences)

    @property
    def is_done(self) -> bool:
        return all(sequence.finish_reason is not None for sequence in self.sequences)

    @property
    def timings(self) -> Timings:
        """Of a finished request, or up to now: a stop string is seen before the step thread knows of it."""
        finished = time.monotonic() if self.finished is None else self.finished
        started = finished if self.started is None else self.started
        first_token = finished if self.first_token is None else self.first_token
        return Timings(started - self.request.arrived, first_token - started, finished - first_token)


class TokenEvent(NamedTuple):
    """A sequence has one more token, and has ended with it where there is a reason."""

    live: LiveRequest
    sequence_index: int
    sampled: Sampled
    reason: FinishReason | None


class ScoredEvent(NamedTuple):
    """Given tokens of a sequence got their log-probabilities, in order."""

    live: LiveRequest
    sequence_index: int
    scored: list[Sampled]


class RanksEvent(NamedTuple):
    """The likeliest next tokens, (token id, logprob), likeliest first."""

    live: LiveRequest
    candidates: list[tuple[int, float]]


class VectorEvent(NamedTuple):
    """The embedding [hidden] float32 of the prompt, of length 1."""

    live: LiveRequest
    vector: NDArray[np.float32]


class DoneEvent(NamedTuple):
    """A sequence without generated tokens has nothing left to run."""

    live: LiveRequest
    sequence_index: int


class FaultEvent(NamedTuple):
    live: LiveRequest
    fault: Fault


Event = TokenEvent | ScoredEvent | RanksEvent | VectorEvent | DoneEvent | FaultEvent
