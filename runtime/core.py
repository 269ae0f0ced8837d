"""The engine without its threads: requests go in, `step()` runs the graph once, events come out.

A step is `schedule -> run -> finish`. One thread owns everything in here.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from runtime.config import EngineConfig
from runtime.contract import Architecture, Fault, FaultCode, FinishReason, Operation
from runtime.errors import RequestFault
from runtime.kv_cache import KEEP_SECONDS, KvCache
from runtime.live import (
    DoneEvent,
    Event,
    FaultEvent,
    LiveRequest,
    RanksEvent,
    ScoredEvent,
    TokenEvent,
    VectorEvent,
)
from runtime.pace import Pace
from runtime.sampling import Sampled, log_softmax
from runtime.sampling.distribution import largest
from runtime.scheduler import Batch, Decode, Prefill, Scheduler
from runtime.sequence import Sequence, SequenceState
from runtime.session import LmSession

Floats = NDArray[np.float32]
logger = logging.getLogger(__name__)

# Between looks for memory that can be given back, while there is none, and while there is.
TIDY_SECONDS = 1.0
TIDY_ON_SECONDS = 0.1
# In which the first token of a stream reaches its reader, while no step holds the processors.
HEAD_START_SECONDS = 0.0015


@dataclass(slots=True)
class Counters:
    """Sums since the model was loaded; written by the step thread, read by anyone."""

    steps: int = 0
    prompt_tokens: int = 0  # run through the graph; those found in the cache are not among them
    generated_tokens: int = 0
    queue_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    finished: Counter[FinishReason] = field(default_factory=Counter)  # sequences


class EngineCore:
    def __init__(
        self,
        session: LmSession,
        architecture: Architecture,
        config: EngineConfig,
        left_queue: Callable[[Sequence], None],
    ) -> None:
        """`left_queue` is told once of every sequence that waits no more."""
        slots, context = config.num_slots, architecture.context_length
        self.cache = KvCache(session.layout, slots, context, config.max_kv_tokens, session.make_memory)
        self.scheduler = Scheduler(self.cache, config.prefill_chunk, left_queue)
        self.counters = Counters()
        self._session = session
        self._session.attach(self.cache, config.prefill_chunk)
        self._prefill_chunk = config.prefill_chunk
        self._pace = Pace()
        self._eos_token_id = architecture.eos_token_id
        self._left_queue = left_queue
        self._tidy_due = 0.0  # on the monotonic clock, seconds
        self._live: dict[str, LiveRequest] = {}
        self._deadlines: list[tuple[float, int, LiveRequest]] = []  # a heap; the number breaks ties
        self._num_added = 0
        self._events: list[Event] = []
        self.head_start = 0.0  # seconds for which the step to come should wait
        # On the monotonic clock; read by the watchdog, None between steps.
        self.step_began: float | None = None

    @property
    def has_work(self) -> bool:
        return bool(self._live or self._events)

    @property
    def rest_seconds(self) -> float | None:
        """Without work: until the next step should come all the same. None: not before there is some."""
        return max(0.0, self._tidy_due - time.monotonic()) if self.cache.untidy else None

    def add(self, live: LiveRequest) -> None:
        self._num_added += 1
        self._live[live.request.request_id] = live
        if live.request.deadline is not None:
            self._forget_deadlines()
            heapq.heappush(self._deadlines, (live.request.deadline, self._num_added, live))
        self.scheduler.add(live.sequences)
        if not live.sequences:
            self._events.append(DoneEvent(live, 0))
            self._close_if_done(live)

    def abort(self, request_id: str, fault: Fault) -> None:
        """Fail a request with `fault` and free what it holds; one that is over already is left alone."""
        live = self._live.get(request_id)
        if live is None:
            return
        cancelled = fault.code is FaultCode.CANCELLED
        for sequence in live.sequences:
            self._close_sequence(sequence, FinishReason.CANCELLED if cancelled else FinishReason.ERROR)
        self._events.append(FaultEvent(live, fault))

    def abort_all(self, fault: Fault) -> None:
        for request_id in list(self._live):
            self.abort(request_id, fault)

    def reset(self, fault: Fault) -> None:
        """Fail everything and start the books anew, after they were found to be wrong."""
        for live in self._live.values():
            self._events.append(FaultEvent(live, fault))
            live.closed = True
            for sequence in live.sequences:
                if sequence.state is SequenceState.WAITING:
                    self._left_queue(sequence)
                sequence.state = SequenceState.FINISHED
                sequence.finish_reason = sequence.finish_reason or FinishReason.ERROR
        self._live.clear()
        self.cache.clear()
        self.scheduler = Scheduler(self.cache, self._prefill_chunk, self._left_queue)

    def stop(self, live: LiveRequest, index: int) -> None:
        """A stop string completed: the sequence needs no further token."""
        self._close_sequence(live.sequences[index], FinishReason.STOP)

    def step(self) -> list[Event]:
        """Run the graph once, if there is anything to run; return what happened."""
        self.step_began = now = time.monotonic()
        self.head_start = 0.0
        try:
            self._expire(now)
            if batch := self.scheduler.schedule():
                self._run(batch)
            if self.cache.untidy and now >= self._tidy_due:
                found = self.cache.give_back(now - KEEP_SECONDS)
                self._tidy_due = now + (TIDY_ON_SECONDS if found else TIDY_SECONDS)
        finally:
            self.step_began = None
        events, self._events = self._events, []
        return events

    def check_integrity(self) -> None:
        self.scheduler.check_integrity()

    def _run(self, batch: Batch) -> None:
        try:
            self._start(batch)
            begin = time.monotonic()
            if isinstance(batch, Prefill):
                rows = self._session.run(batch)
                self._pace.note_prefill(batch.count, time.monotonic() - begin)
                self._finish_prefill(batch, rows)
            else:
                answers = self._session.decode(batch)
                self._pace.note_decode(time.monotonic() - begin)
                self._finish_decode(batch, answers)
            self.scheduler.beside_decode = self._pace.chunk(self._prefill_chunk)
        except Exception as error:
            self._fail(batch, error)

    def _start(self, batch: Batch) -> None:
        self.counters.steps += 1
        for sequence in batch.sequences:
            if sequence.live.started is None:
                sequence.live.started = time.monotonic()

    def _finish_decode(self, batch: Decode, answers: list[Sampled | RequestFault]) -> None:
        for sequence, sampled in zip(batch.sequences, answers, strict=True):
            sequence.computed += 1
            if isinstance(sampled, RequestFault):
                self.abort(sequence.live.request.request_id, sampled.fault)
            elif sequence.finish_reason is None:  # a sibling in the same step may have failed the request
                self._append(sequence, sampled)

    def _finish_prefill(self, batch: Prefill, rows: Floats) -> None:
        sequence = batch.sequence
        live = sequence.live
        sequence.computed += batch.count
        self.counters.prompt_tokens += batch.count
        is_last = sequence.computed == sequence.end
        if not np.isfinite(rows).all():
            raise RequestFault.of(FaultCode.INTERNAL, "the model's outputs are not finite numbers")
        if sequence.operation is Operation.EMBED:
            self._embed(sequence, rows)
        elif sequence.operation is Operation.NEXT and is_last:
            self._events.append(RanksEvent(live, _ranked(rows[-1], live.request.num_candidates)))
        elif sequence.operation in (Operation.SCORE, Operation.GENERATE):
            # The last row of a text that is to go on predicts a new token; all others predict given ones.
            given = rows[:-1] if is_last and sequence.operation is Operation.GENERATE else rows
            if len(given):
                self._score(sequence, given, sequence.computed - len(rows) + 1)
        if is_last and sequence.sampler is not None:
            self._append(sequence, sequence.sampler.sample(rows[-1]))
        elif is_last:
            self._events.append(DoneEvent(live, sequence.index))
            self._close_sequence(sequence, FinishReason.STOP)

    def _append(self, sequence: Sequence, sampled: Sampled) -> None:
        if sequence.live.first_token is None:
            sequence.live.first_token = time.monotonic()
            if sequence.live.request.stream and len(self._live) == 1 and self._session.on_host:
                self.head_start = HEAD_START_SECONDS
        self.counters.generated_tokens += 1
        sequence.tokens.append(sampled.token_id)
        reason = sequence.ending(self._eos_token_id)
        self._events.append(TokenEvent(sequence.live, sequence.index, sampled, reason))
        if reason is not None:
            self._close_sequence(sequence, reason)

    def _score(self, sequence: Sequence, rows: Floats, first_target: int) -> None:
        """Log-probabilities of the given tokens from position `first_target` on, one row each."""
        targets = sequence.tokens[first_target : first_target + len(rows)]
        logprobs = log_softmax(rows)
        num_top = sequence.live.request.parameters.logprobs or 0
        scored = []
        for row, target in zip(logprobs, targets, strict=True):
            top = [(token, float(row[token])) for token in largest(row, num_top).tolist()]
            scored.append(Sampled(target, float(row[target]), top))
        self._events.append(ScoredEvent(sequence.live, sequence.index, scored))

    def _embed(self, sequence: Sequence, rows: Floats) -> None:
        partial_sum = rows.sum(axis=0)
        total = partial_sum if sequence.hidden_sum is None else sequence.hidden_sum + partial_sum
        sequence.hidden_sum = total
        if sequence.computed == sequence.end:
            # The mean and the sum point the same way, and only the direction is asked for.
            self._events.append(VectorEvent(sequence.live, total / max(float(np.linalg.norm(total)), 1e-12)))

    def _expire(self, now: float) -> None:
        while self._deadlines and self._deadlines[0][0] <= now:
            live = heapq.heappop(self._deadlines)[2]
            if not live.closed:
                limit = live.request.parameters.deadline_ms
                message = (
                    f"not finished within {limit} ms ({'waiting' if live.started is None else 'running'})"
                )
                self.abort(
                    live.request.request_id, Fault(FaultCode.DEADLINE_EXCEEDED, message, "deadline_ms")
                )

    def _forget_deadlines(self) -> None:
        """Drop those of requests that are over, when they are most: a heap gives up only its first."""
        if len(self._deadlines) > 2 * len(self._live) + 16:
            self._deadlines = [entry for entry in self._deadlines if not entry[2].closed]
            heapq.heapify(self._deadlines)

    def _fail(self, batch: Batch, error: Exception) -> None:
        """Fail the requests of a step that raised, and those only."""
        requests = {id(sequence.live): sequence.live for sequence in batch.sequences}
        logger.error("a step failed with %d requests in it", len(requests), exc_info=error)
        fault = Fault(FaultCode.INTERNAL, "the model could not be run; the server's log says why")
        for live in requests.values():
            self.abort(live.request.request_id, error.fault if isinstance(error, RequestFault) else fault)

    def _close_sequence(self, sequence: Sequence, reason: FinishReason) -> None:
        if sequence.finish_reason is None:
            self.scheduler.remove(sequence, reason)
            self.counters.finished[reason] += 1
            self._close_if_done(sequence.live)

    def _close_if_done(self, live: LiveRequest) -> None:
        if live.closed or not live.is_done:
            return
        live.closed = True
        live.finished = time.monotonic()
        del self._live[live.request.request_id]
        self.counters.queue_seconds += live.timings.queue_seconds
        self.counters.prefill_seconds += live.timings.prefill_seconds
        self.counters.decode_seconds += live.timings.decode_seconds


def _ranked(logits: Floats, count: int) -> list[tuple[int, float]]:
    """The `count` likeliest tokens of `logits` [vocab], as (token id, logprob)."""
    logprobs = log_softmax(logits)
    return [(token, float(logprobs[token])) for token in largest(logprobs, count).tolist()]
