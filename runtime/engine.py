"""One model of kind `lm` in service: the core in a thread of its own, and the face that other threads see.

| thread          | does                                                                            |
| --------------- | ------------------------------------------------------------------------------- |
| any             | `submit`: checks, tokenizes, takes a place in the queue; `abort`, `stats`       |
| step thread     | owns the core: obeys commands, then steps, as long as there is work             |
| delivery thread | detokenizes, finds stop strings, calls the sinks                                |
| watchdog        | fails everything where a step does not return, since the step thread cannot     |
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue

from runtime.assembly import assembly_for
from runtime.config import EngineConfig
from runtime.contract import (
    ENGINE_FILE,
    MANIFEST_FILE,
    TOKENIZER_FILE,
    Fault,
    FaultCode,
    FinishReason,
    Kind,
    Manifest,
    ManifestError,
)
from runtime.core import EngineCore
from runtime.delivery import Delivery
from runtime.errors import IntegrityError, ModelError, RequestFault
from runtime.golden import check_golden
from runtime.live import FaultEvent, LiveRequest, Sink
from runtime.planning import Planner
from runtime.queue_places import QueuePlaces
from runtime.request import Request
from runtime.session import LmSession
from runtime.text import Tokenizer
from runtime.watchdog import Watchdog, stack_of

Command = Callable[[], None]
logger = logging.getLogger(__name__)

_UNLOADED = Fault(FaultCode.UNAVAILABLE, "the model is being unloaded")
FAREWELL_SECONDS = 2.0  # in which the faults of a stalled engine reach the callers
_JOIN_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class EngineStats:
    running: int  # sequences in slots
    waiting: int  # requests without a slot
    slots: int
    kv_tokens_used: int  # rows that belong to sequences
    kv_tokens_promised: int  # rows that these may come to need
    kv_tokens_resident: int  # rows promised, or that hold memory
    kv_tokens_capacity: int
    generated_tokens: int
    prompt_tokens: int
    reused_tokens: int  # prompt tokens found in the cache instead of being run
    steps: int
    queue_seconds: float  # sums over finished requests, as the next two
    prefill_seconds: float
    decode_seconds: float
    finished: dict[FinishReason, int]  # sequences
    stalled: bool  # a step did not return; nothing is answered any more


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
        """`on_stall` is called, by a thread of its own, where a step did not return and all were told so.

        `on_delivered` is called by the thread that calls the sinks, after answers that were ready together.
        """
        self.manifest = manifest
        self.config = config
        self.tokenizer = tokenizer
        self._places = QueuePlaces(config.max_queued, config.max_queued_tokens)
        self._core = EngineCore(session, manifest.architecture, config, self._places.leave)
        self._planner = Planner(tokenizer, manifest.architecture, self._core.cache.capacity)
        self._inbox: SimpleQueue[Command | None] = SimpleQueue()
        self._pending: dict[str, LiveRequest] = {}  # accepted, not answered yet
        self._pending_changed = threading.Condition()
        self._refusal: Fault | None = None  # why nothing is accepted any more
        self._stalled = False
        self._on_stall = on_stall
        self._delivery = Delivery(
            self._forget, lambda live, fault: self._abort(live.request.request_id, fault), on_delivered
        )
        self._thread = threading.Thread(target=self._run, name="lmaas-step", daemon=True)
        self._thread.start()
        self._watchdog = Watchdog(config.step_timeout_seconds, lambda: self._core.step_began, self._stall)

    @classmethod
    def load(
        cls,
        folder: Path,
        on_stall: Callable[[], None] = lambda: None,
        on_delivered: Callable[[], None] = lambda: None,
    ) -> Engine:
        """Open a version folder and replay its golden prompts; raises ModelError."""
        try:
            manifest = Manifest.load(folder)
        except (OSError, ManifestError) as error:
            raise ModelError(f"{MANIFEST_FILE}: {error}") from None
        config = EngineConfig.load(folder)
        if manifest.kind is not Kind.LM:
            raise ModelError(f"manifest.kind: {manifest.kind.value}, but the engine runs {Kind.LM.value}")
        if config.variant not in manifest.variants:
            known = ", ".join(item.value for item in manifest.variants)
            raise ModelError(f"{MANIFEST_FILE}: variant {config.variant.value} is not among {known}")
        context_length = manifest.architecture.context_length
        if config.max_queued_tokens < context_length:
            raise ModelError(
                f"{ENGINE_FILE}: max_queued_tokens: {config.max_queued_tokens} is less than one context of "
                f"{context_length} tokens"
            )
        graph = folder / manifest.variants[config.variant].graph.path
        session = LmSession(graph, config.threads, config.accelerator)
        tokenizer = Tokenizer(folder / TOKENIZER_FILE, manifest.architecture.eos_token_id)
        engine = cls(manifest, config, session, tokenizer, on_stall, on_delivered)
        try:
            check_golden(engine)
        except (ModelError, RequestFault) as error:
            engine.close()
            raise ModelError(f"{manifest.name}: {error}") from None
        return engine

    def submit(self, request: Request, sink: Sink) -> None:
        """Accept the request, whose answers then go to `sink`, or raise RequestFault. Thread-safe."""
        live = self._planner.plan(request, sink)
        live.assembly = assembly_for(live, self.tokenizer, self._stop)
        with self._pending_changed:
            if self._refusal is not None:
                raise RequestFault(self._refusal)
            if request.request_id in self._pending:
                raise RequestFault.invalid("request_id", f"{request.request_id!r} is under way already")
            self._places.take(live)
            self._pending[request.request_id] = live
            self._inbox.put(partial(self._core.add, live))

    def abort(self, request_id: str) -> None:
        """Cancel; frees the slot before the next step. A request that is over already is left alone."""
        self._abort(request_id, Fault(FaultCode.CANCELLED, "cancelled by the caller"))

    def stats(self) -> EngineStats:
        core, counters = self._core, self._core.counters
        return EngineStats(
            running=core.scheduler.num_running,
            waiting=self._places.num_taken,
            slots=core.cache.num_slots,
            kv_tokens_used=core.cache.num_tokens,
            kv_tokens_promised=core.cache.promised,
            kv_tokens_resident=core.cache.resident,
            kv_tokens_capacity=core.cache.capacity,
            generated_tokens=counters.generated_tokens,
            prompt_tokens=counters.prompt_tokens,
            reused_tokens=core.cache.reused_tokens,
            steps=counters.steps,
            queue_seconds=counters.queue_seconds,
            prefill_seconds=counters.prefill_seconds,
            decode_seconds=counters.decode_seconds,
            finished={reason: counters.finished[reason] for reason in FinishReason},
            stalled=self._stalled,
        )

    def drain(self, timeout: float) -> bool:
        """Accept nothing more and wait, at most `timeout` seconds; whether all requests were answered."""
        with self._pending_changed:
            self._refusal = self._refusal or _UNLOADED
            return self._pending_changed.wait_for(lambda: not self._pending, timeout)

    def close(self) -> None:
        """Fail what is under way and end the threads; every request has had its outcome by then.

        A step thread that does not return is left behind.
        """
        with self._pending_changed:
            self._refusal = self._refusal or _UNLOADED
        self._inbox.put(None)
        while self._thread.is_alive() and not self._stalled:
            self._thread.join(_JOIN_SECONDS)
        self._watchdog.close()
        self._delivery.close()

    def check_integrity(self) -> None:
        """Raise IntegrityError where the books do not agree, as they stand between two steps."""
        if not self._thread.is_alive():
            self._check_books()
            return
        checked: Future[None] = Future()

        def check() -> None:
            try:
                self._check_books()
            except IntegrityError as error:
                checked.set_exception(error)
            else:
                checked.set_result(None)

        self._inbox.put(check)
        checked.result()

    def _check_books(self) -> None:
        self._core.check_integrity()
        with self._pending_changed:
            if not self._pending:
                self._places.check_empty()

    def _stall(self) -> None:
        """On the watchdog's thread, which may touch nothing of the core."""
        limit = self.config.step_timeout_seconds
        fault = Fault(
            FaultCode.UNAVAILABLE,
            f"a step of the model has run for more than {limit} s; it must be started anew",
        )
        with self._pending_changed:
            self._refusal = fault
            self._stalled = True
            pending = list(self._pending.values())
        stack = stack_of(self._thread)
        logger.critical("%s; %d requests fail. It is here:\n%s", fault.message, len(pending), stack)
        self._delivery.put([FaultEvent(live, fault) for live in pending])
        for live in pending:  # should the step return after all
            self._abort(live.request.request_id, fault)
        self.drain(FAREWELL_SECONDS)
        self._on_stall()

    def _abort(self, request_id: str, fault: Fault) -> None:
        self._inbox.put(partial(self._core.abort, request_id, fault))

    def _stop(self, live: LiveRequest, index: int) -> None:
        self._inbox.put(partial(self._core.stop, live, index))

    def _forget(self, live: LiveRequest) -> None:
        with self._pending_changed:
            self._pending.pop(live.request.request_id, None)
            self._pending_changed.notify_all()

    def _run(self) -> None:
        while True:
            try:
                if not self._obey():
                    break
                if events := self._core.step():
                    self._delivery.put(events)
                if self._core.head_start and self._core.has_work:
                    time.sleep(self._core.head_start)
            except (
                Exception
            ):  # not one batch but the books are broken: what they held is lost, what comes is not
                logger.exception("the scheduler failed; every request under way fails with it")
                self._core.reset(Fault(FaultCode.INTERNAL, "the scheduler failed; the server's log says why"))
        self._core.abort_all(_UNLOADED)
        self._delivery.put(self._core.step())

    def _obey(self) -> bool:
        """Carry out the commands that came; wait for one where there is no work. False when told to end."""
        wait = not self._core.has_work
        if wait:
            self._core.check_integrity()
        try:
            while command := self._inbox.get(wait, self._core.rest_seconds if wait else None):
                command()
                wait = False
        except Empty:
            return True
        return False
