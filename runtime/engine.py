"""One model of kind `lm` in service: the core in its thread, and the interface for other threads.

| thread        | does                                                                             |
| ------------- | -------------------------------------------------------------------------------- |
| any           | `submit`: checks, tokenizes, takes a place in the queue; `abort`, `stats`        |
| step thread   | owns the core: runs commands, then a step, as long as there is work              |
| output thread | detokenizes, finds stop strings, calls the sinks                                 |
| watchdog      | fails all requests if a step does not return, as the step thread cannot          |
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue

from runtime.config import EngineConfig
from runtime.contract import Fault, FaultCode, FinishReason, Variant
from runtime.core import EngineCore
from runtime.errors import IntegrityError, RequestFault
from runtime.input_processor import InputProcessor, QueueLimits
from runtime.manifest import Manifest
from runtime.masks import MaskServer, Preparations
from runtime.output_processor import output_processor_for
from runtime.output_thread import OutputThread
from runtime.pacing import StepPacing
from runtime.receipts import ExactOn, Receipt, release
from runtime.request import Request
from runtime.request_state import FaultEvent, RequestState, Sink
from runtime.session import LmSession
from runtime.text import Tokenizer

Command = Callable[[], None]
logger = logging.getLogger(__name__)

_UNLOADED = Fault(FaultCode.UNAVAILABLE, "the model is being unloaded")
STALL_FLUSH_SECONDS = 2.0  # the faults of a stalled engine reach the callers within this time
CHECKS_PER_LIMIT = 10  # of the watchdog
_JOIN_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class EngineStats:
    running: int  # sequences in slots
    waiting: int  # requests without a slot
    slots: int
    kv_tokens_used: int  # rows that belong to sequences
    kv_tokens_promised: int  # rows that these may need
    kv_tokens_resident: int  # rows promised, or that hold memory
    kv_tokens_capacity: int
    generated_tokens: int
    prompt_tokens: int
    reused_tokens: int  # prompt tokens found in the cache instead of being run
    preempted: int  # sequences that lost their slots to another caller's, for a while
    steps: int
    queue_seconds: float  # a sum over finished requests, like the next two
    prefill_seconds: float
    decode_seconds: float
    finished: dict[FinishReason, int]  # sequences
    stalled: bool  # a step did not return; no request is answered any longer

    @property
    def kv_cache_usage(self) -> float:
        """Share of the KV cache that is promised, 0 to 1."""
        return self.kv_tokens_promised / self.kv_tokens_capacity


class Engine:
    def __init__(
        self,
        manifest: Manifest,
        config: EngineConfig,
        session: LmSession,
        tokenizer: Tokenizer,
        on_stall: Callable[[], None] = lambda: None,
        on_delivered: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_stall` is called by the watchdog's thread, after a step did not return and all requests failed.

        `on_delivered` is called by the thread that calls the sinks, after answers that were sent together.
        """
        self.manifest = manifest
        self.config = config
        self.tokenizer = tokenizer
        # Why no plan of TensorRT computes. Empty: one does. None: none was asked for.
        self.fallback: str | None = None
        self._receipt = Receipt(
            release(),
            manifest.digest(config.variant),
            config.variant.value,
            session.kernels,
            _exact_on(config.variant, session),
        )
        self._queue_limits = QueueLimits(config.max_queued, config.max_queued_tokens)
        self._core = EngineCore(session, manifest.architecture, config, self._queue_limits.release)
        self._input_processor = InputProcessor(tokenizer, manifest.architecture, self._core.cache.capacity)
        self._inbox: SimpleQueue[Command | None] = SimpleQueue()
        self._inbox.put(session.capture)
        self._pending: dict[str, RequestState] = {}  # accepted, not answered yet
        self._pending_changed = threading.Condition()
        self._refusal: Fault | None = None  # why no request is accepted any longer
        self._stalled = False
        self._pacing = StepPacing(on_host=session.on_host)
        self._on_stall = on_stall
        self._output = OutputThread(
            self._forget, lambda state, fault: self._abort(state.request.request_id, fault), on_delivered
        )
        masks = MaskServer(tokenizer.path, manifest.architecture.vocab_size, manifest.architecture.ends)
        self._preparations = Preparations(masks, self._add, self._fail_unprepared, 2 * config.num_slots)
        self._thread = threading.Thread(target=self._run, name="lmaas-step", daemon=True)
        self._thread.start()
        self._watchdog = Watchdog(config.step_timeout_seconds, lambda: self._core.step_began, self._stall)

    def submit(self, request: Request, sink: Sink) -> None:
        """Accept the request, whose answers then go to `sink`, or raise RequestFault. Thread-safe."""
        state = self._input_processor.process(request, sink)
        state.output = output_processor_for(state, self.tokenizer, self._stop, self._receipt)
        with self._pending_changed:
            if self._refusal is not None:
                raise RequestFault(self._refusal)
            if request.request_id in self._pending:
                raise RequestFault.invalid("request_id", f"{request.request_id!r} is under way already")
            self._queue_limits.reserve(state)
            self._pending[request.request_id] = state
            if state.request.parameters.grammar is None or not state.sequences:
                self._add(state)
            else:
                self._preparations.add(state)

    def abort(self, request_id: str) -> None:
        """Cancel; frees the slot before the next step. A request that is done stays as it is."""
        self._abort(request_id, Fault(FaultCode.CANCELLED, "cancelled by the caller"))

    def stats(self) -> EngineStats:
        core, counters = self._core, self._core.counters
        return EngineStats(
            running=core.scheduler.num_running,
            waiting=self._queue_limits.num_requests,
            slots=core.cache.num_slots,
            kv_tokens_used=core.cache.num_tokens,
            kv_tokens_promised=core.cache.promised,
            kv_tokens_resident=core.cache.resident,
            kv_tokens_capacity=core.cache.capacity,
            generated_tokens=counters.generated_tokens,
            prompt_tokens=counters.prompt_tokens,
            reused_tokens=core.cache.reused_tokens,
            preempted=core.cache.num_preempted,
            steps=counters.steps,
            queue_seconds=counters.queue_seconds,
            prefill_seconds=counters.prefill_seconds,
            decode_seconds=counters.decode_seconds,
            finished={reason: counters.finished[reason] for reason in FinishReason},
            stalled=self._stalled,
        )

    def drain(self, timeout: float) -> bool:
        """Accept no further request and wait up to `timeout` seconds; whether all requests were answered."""
        with self._pending_changed:
            self._refusal = self._refusal or _UNLOADED
            return self._pending_changed.wait_for(lambda: not self._pending, timeout)

    def close(self) -> None:
        """Fail the requests in flight and end the threads; every request has had its outcome then.

        A step thread that does not return stays.
        """
        with self._pending_changed:
            self._refusal = self._refusal or _UNLOADED
        self._preparations.close(_UNLOADED)
        self._inbox.put(None)
        while self._thread.is_alive() and not self._stalled:
            self._thread.join(_JOIN_SECONDS)
        self._watchdog.close()
        self._output.close()

    def check_integrity(self) -> None:
        """Raise IntegrityError if an invariant does not hold between two steps."""
        if not self._thread.is_alive():
            self._check_invariants()
            return
        checked: Future[None] = Future()

        def check() -> None:
            try:
                self._check_invariants()
            except IntegrityError as error:
                checked.set_exception(error)
            else:
                checked.set_result(None)

        self._inbox.put(check)
        checked.result()

    def _check_invariants(self) -> None:
        self._core.scheduler.check_integrity()
        with self._pending_changed:
            if not self._pending:
                self._queue_limits.check_empty()

    def _stall(self) -> None:
        """On the watchdog's thread, which must not touch the core."""
        limit = self.config.step_timeout_seconds
        fault = Fault(
            FaultCode.UNAVAILABLE,
            f"a step of the model has run for more than {limit} s; it must be started anew",
        )
        with self._pending_changed:
            self._refusal = fault
            self._stalled = True
            pending = list(self._pending.values())
        stack = _stack_of(self._thread)
        logger.critical("%s; %d requests fail. It is here:\n%s", fault.message, len(pending), stack)
        self._output.put([FaultEvent(state, fault) for state in pending])
        for state in pending:  # in case the step returns after all
            self._abort(state.request.request_id, fault)
        self.drain(STALL_FLUSH_SECONDS)
        self._on_stall()

    def _abort(self, request_id: str, fault: Fault) -> None:
        if not self._preparations.abort(request_id, fault):
            self._inbox.put(partial(self._core.abort, request_id, fault))

    def _add(self, state: RequestState) -> None:
        self._inbox.put(partial(self._core.add, state))

    def _fail_unprepared(self, state: RequestState, fault: Fault) -> None:
        """The core does not know the request."""
        for sequence in state.sequences:
            self._queue_limits.release(sequence)
        self._output.put([FaultEvent(state, fault)])

    def _stop(self, state: RequestState, index: int) -> None:
        self._inbox.put(partial(self._core.stop, state, index))

    def _forget(self, state: RequestState) -> None:
        with self._pending_changed:
            self._pending.pop(state.request.request_id, None)
            self._pending_changed.notify_all()

    def _run(self) -> None:
        while True:
            try:
                if not self._run_commands():
                    break
                if events := self._core.step():
                    self._output.put(events)
                    if pause := self._pacing.pause_after(events, self._core.num_requests):
                        time.sleep(pause)
            # An invariant is violated outside of a batch: fail all requests in flight, reset, go on.
            except Exception:
                logger.exception("the scheduler failed; every request under way fails with it")
                self._core.reset(Fault(FaultCode.INTERNAL, "the scheduler failed; the server's log says why"))
        self._core.abort_all(_UNLOADED)
        self._output.put(self._core.step())

    def _run_commands(self) -> bool:
        """Run the commands that came; without work, wait for one. False: the engine closes."""
        wait = not self._core.has_work
        if wait:
            self._core.scheduler.check_integrity()
        try:
            while command := self._inbox.get(wait, self._core.idle_seconds if wait else None):
                command()
                wait = False
        except Empty:
            return True
        return False


class Watchdog:
    """A thread that notices a step which does not return. Native code that hangs cannot be interrupted."""

    def __init__(
        self, limit_seconds: float, began: Callable[[], float | None], stalled: Callable[[], None]
    ) -> None:
        """`began` returns when the current step began (monotonic seconds). `stalled` is called once."""
        self._limit = limit_seconds
        self._began = began
        self._stalled = stalled
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lmaas-watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """May be called from `stalled`."""
        self._closing.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        suspect: float | None = None
        while not self._closing.wait(self._limit / CHECKS_PER_LIMIT):
            began = self._began()
            if began is None or time.monotonic() - began <= self._limit:
                suspect = None
            elif began != suspect:  # the whole process may have been stopped: check the step once more
                suspect = began
            else:
                self._stalled()
                return


def _exact_on(variant: Variant, session: LmSession) -> ExactOn:
    if session.is_fused and variant in (Variant.INT8, Variant.INT4):
        return "any-processor"
    # MatMulNBits, which computes int4 without our operators, sums by the number of rows. On a GPU, cuBLAS and
    # TensorRT may do so.
    return "not-promised" if variant is Variant.INT4 or not session.on_host else "same-processor"


def _stack_of(thread: threading.Thread) -> str:
    """Where the thread is now, for the log."""
    frame = sys._current_frames().get(thread.ident or 0)
    return "".join(traceback.format_stack(frame)) if frame else ""
