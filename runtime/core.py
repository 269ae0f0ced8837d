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
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from runtime.config import EngineConfig
from runtime.contract import Fault, FaultCode, FinishReason, Operation
from runtime.errors import RequestFault
from runtime.kv_cache import KvCache
from runtime.manifest import Architecture
from runtime.prediction import AnswerLengths, why_too_late
from runtime.request_state import (
    DoneEvent,
    Event,
    FaultEvent,
    RanksEvent,
    RequestState,
    ScoredEvent,
    Sequence,
    SequenceStatus,
    TokenEvent,
    VectorEvent,
)
from runtime.sampling import Sampled, log_softmax
from runtime.sampling.distribution import largest
from runtime.scheduler import Batch, Decode, Prefill, Scheduler
from runtime.session import LmSession

Floats = NDArray[np.float32]
logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Counters:
    """Sums since the model was loaded; written by the step thread, read by all threads."""

    steps: int = 0
    prompt_tokens: int = 0  # that the graph ran; without those found in the cache
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
        """`left_queue` is called once for every sequence, when it stops waiting."""
        slots, context = config.num_slots, architecture.context_length
        self.cache = KvCache(session.layout, slots, context, config.max_kv_tokens, session.make_memory)
        self.scheduler = Scheduler(self.cache, config.most_prompt_tokens, left_queue, packs=session.packs)
        self.counters = Counters()
        self._session = session
        self._session.attach(self.cache, config.most_prompt_tokens)
        self._prefill_chunk = config.most_prompt_tokens
        self._ends = frozenset(architecture.ends)
        self._left_queue = left_queue
        self._lengths = AnswerLengths()
        self._states: dict[str, RequestState] = {}
        self._deadlines: list[tuple[float, int, RequestState]] = []  # a heap; the number breaks ties
        self._num_added = 0
        self._events: list[Event] = []
        # When the current step began, on the monotonic clock; None between steps. The watchdog reads it.
        self.step_began: float | None = None

    @property
    def has_work(self) -> bool:
        return bool(self._states or self._events)

    @property
    def num_requests(self) -> int:
        """Requests that are not done yet."""
        return len(self._states)

    @property
    def idle_seconds(self) -> float | None:
        """How long an idle core may go without a step. None: until there is work."""
        due = self.cache.reclaim_due
        return None if due is None else max(0.0, due - time.monotonic())

    def add(self, state: RequestState) -> None:
        self._num_added += 1
        fault = why_too_late(state, self.scheduler, self._lengths)
        self._states[state.request.request_id] = state
        if state.request.deadline is not None:
            self._drop_deadlines()
            heapq.heappush(self._deadlines, (state.request.deadline, self._num_added, state))
        self.scheduler.add(state.sequences)
        if not state.sequences:
            self._events.append(DoneEvent(state, 0))
            self._close_if_done(state)
        elif fault is not None:
            self.abort(state.request.request_id, fault)

    def abort(self, request_id: str, fault: Fault) -> None:
        """Fail a request with `fault` and free what it holds. A request that is done stays as it is."""
        state = self._states.get(request_id)
        if state is None:
            return
        cancelled = fault.code is FaultCode.CANCELLED
        for sequence in state.sequences:
            self._close_sequence(sequence, FinishReason.CANCELLED if cancelled else FinishReason.ERROR)
        self._events.append(FaultEvent(state, fault))

    def abort_all(self, fault: Fault) -> None:
        for request_id in list(self._states):
            self.abort(request_id, fault)

    def reset(self, fault: Fault) -> None:
        """Fail all requests and start with an empty cache and queue, after an invariant was violated."""
        for state in self._states.values():
            self._events.append(FaultEvent(state, fault))
            state.closed = True
            state.close_masks()
            for sequence in state.sequences:
                if sequence.status is SequenceStatus.WAITING and sequence.saved_rows is None:
                    self._left_queue(sequence)
                sequence.saved_rows = None
                sequence.status = SequenceStatus.FINISHED
                sequence.finish_reason = sequence.finish_reason or FinishReason.ERROR
        self._states.clear()
        self.cache.clear()
        packs = self._session.packs
        self.scheduler = Scheduler(self.cache, self._prefill_chunk, self._left_queue, packs=packs)

    def stop(self, state: RequestState, index: int) -> None:
        """A stop string completed: finish the sequence."""
        self._close_sequence(state.sequences[index], FinishReason.STOP)

    def step(self) -> list[Event]:
        """Run the graph once, if there is anything to run; returns what happened."""
        self.step_began = now = time.monotonic()
        try:
            self._expire(now)
            if batch := self.scheduler.schedule():
                self._run(batch)
            if self.cache.dirty:
                self.cache.reclaim_idle(now)
        finally:
            self.step_began = None
        events, self._events = self._events, []
        return events

    def _run(self, batch: Batch) -> None:
        try:
            self._start(batch)
            begin = time.monotonic()
            if isinstance(batch, Prefill):
                rows = self._session.run(batch)
                self.scheduler.note_run(batch, time.monotonic() - begin)
                self._finish_prefill(batch, rows)
            else:
                answers = self._session.decode(batch)
                self.scheduler.note_run(batch, time.monotonic() - begin)
                self._finish_decode(batch, answers)
        except Exception as error:
            self._fail(batch, error)

    def _start(self, batch: Batch) -> None:
        self.counters.steps += 1
        for sequence in batch.sequences:
            if sequence.state.started is None:
                sequence.state.started = time.monotonic()

    def _finish_decode(self, batch: Decode, answers: list[Sampled | RequestFault]) -> None:
        for sequence, sampled in zip(batch.sequences, answers, strict=True):
            sequence.computed += 1
            if isinstance(sampled, RequestFault):
                self.abort(sequence.state.request.request_id, sampled.fault)
            # Another sequence of the same request may have failed it in this step.
            elif sequence.finish_reason is None:
                self._append(sequence, sampled)

    def _finish_prefill(self, batch: Prefill, rows: Floats) -> None:
        choices = None if batch.embeds else self._session.choices(len(rows))
        ends = list(accumulate(chunk.num_wanted for chunk in batch.chunks))
        for chunk in batch.chunks:
            self.counters.prompt_tokens += 0 if chunk.sequence.is_decoding else chunk.count
            chunk.sequence.computed += chunk.count
        for chunk, start, end in zip(batch.chunks, [0, *ends], ends, strict=False):
            # Another sequence of the same request may have failed it in this step.
            if chunk.sequence.finish_reason is None:
                last = (None, None) if choices is None or end == 0 else choices.row(end - 1)
                self._finish_chunk(chunk.sequence, rows[start:end], *last)

    def _finish_chunk(
        self, sequence: Sequence, rows: Floats, best: int | None, log_sum: float | None
    ) -> None:
        """`rows` are the wanted ones of the chunk; `best` and `log_sum` are of the last one, if known."""
        state = sequence.state
        is_last = sequence.computed == sequence.end
        if sequence.num_generated == 0 and not np.isfinite(rows).all():
            fault = Fault(FaultCode.INTERNAL, "the model's outputs are not finite numbers")
            self.abort(state.request.request_id, fault)
        elif sequence.operation is Operation.EMBED:
            self._embed(sequence, rows)
        elif sequence.operation is Operation.NEXT and is_last:
            self._events.append(RanksEvent(state, _ranked(rows[-1], state.request.num_candidates)))
        elif sequence.operation in (Operation.SCORE, Operation.GENERATE):
            # The last row of a prompt predicts a new token; all others predict given tokens.
            given = rows[:-1] if is_last and sequence.operation is Operation.GENERATE else rows
            if len(given):
                self._score(sequence, given, sequence.computed - len(rows) + 1)
        if not is_last or sequence.finish_reason is not None:
            return
        if sequence.sampler is None:
            self._events.append(DoneEvent(state, sequence.index))
            self._close_sequence(sequence, FinishReason.STOP)
            return
        try:
            self._append(sequence, sequence.sampler.sample(rows[-1], best, log_sum))
        except RequestFault as error:
            self.abort(state.request.request_id, error.fault)

    def _append(self, sequence: Sequence, sampled: Sampled) -> None:
        if sequence.state.first_token is None:
            sequence.state.first_token = time.monotonic()
        self.counters.generated_tokens += 1
        sequence.tokens.append(sampled.token_id)
        reason = sequence.ending(self._ends)
        self._events.append(TokenEvent(sequence.state, sequence.index, sampled, reason))
        if reason is not None:
            self._close_sequence(sequence, reason)

    def _score(self, sequence: Sequence, rows: Floats, first_target: int) -> None:
        """Log-probabilities of the given tokens from position `first_target` on, one row each."""
        targets = sequence.tokens[first_target : first_target + len(rows)]
        logprobs = log_softmax(rows)
        num_top = sequence.state.request.parameters.logprobs or 0
        scored = []
        for row, target in zip(logprobs, targets, strict=True):
            top = [(token, float(row[token])) for token in largest(row, num_top).tolist()]
            scored.append(Sampled(target, float(row[target]), top))
        self._events.append(ScoredEvent(sequence.state, sequence.index, scored))

    def _embed(self, sequence: Sequence, rows: Floats) -> None:
        if sequence.hidden_sum is not None:
            # The rows are added in their order: where a prompt was cut does not show, to the last bit.
            rows = np.concatenate([sequence.hidden_sum[None], rows])
        sequence.hidden_sum = total = rows.sum(axis=0)
        if sequence.computed == sequence.end:
            # The mean and the sum have the same direction, and the embedding is the direction alone.
            self._events.append(VectorEvent(sequence.state, total / max(float(np.linalg.norm(total)), 1e-12)))

    def _expire(self, now: float) -> None:
        while self._deadlines and self._deadlines[0][0] <= now:
            state = heapq.heappop(self._deadlines)[2]
            if not state.closed:
                limit = state.request.parameters.deadline_ms
                message = (
                    f"not finished within {limit} ms ({'waiting' if state.started is None else 'running'})"
                )
                self.abort(
                    state.request.request_id, Fault(FaultCode.DEADLINE_EXCEEDED, message, "deadline_ms")
                )

    def _drop_deadlines(self) -> None:
        """Drop the deadlines of done requests once they are the majority: a heap removes only its first."""
        if len(self._deadlines) > 2 * len(self._states) + 16:
            self._deadlines = [entry for entry in self._deadlines if not entry[2].closed]
            heapq.heapify(self._deadlines)

    def _fail(self, batch: Batch, error: Exception) -> None:
        """Fail the requests of a step that raised, and no others."""
        requests = {id(sequence.state): sequence.state for sequence in batch.sequences}
        logger.error("a step failed with %d requests in it", len(requests), exc_info=error)
        fault = Fault(FaultCode.INTERNAL, "the model could not be run; the server's log says why")
        for state in requests.values():
            self.abort(state.request.request_id, error.fault if isinstance(error, RequestFault) else fault)

    def _close_sequence(self, sequence: Sequence, reason: FinishReason) -> None:
        if sequence.finish_reason is None:
            self.scheduler.remove(sequence, reason)
            if reason in (FinishReason.STOP, FinishReason.LENGTH):
                self._lengths.note(sequence)
            self.counters.finished[reason] += 1
            self._close_if_done(sequence.state)

    def _close_if_done(self, state: RequestState) -> None:
        if state.closed or not state.is_done:
            return
        state.closed = True
        state.close_masks()
        state.finished = time.monotonic()
        del self._states[state.request.request_id]
        self.counters.queue_seconds += state.timings.queue_seconds
        self.counters.prefill_seconds += state.timings.prefill_seconds
        self.counters.decode_seconds += state.timings.decode_seconds


def _ranked(logits: Floats, count: int) -> list[tuple[int, float]]:
    """The `count` likeliest tokens of `logits` [vocab], as (token id, logprob)."""
    logprobs = log_softmax(logits)
    return [(token, float(logprobs[token])) for token in largest(logprobs, count).tolist()]
