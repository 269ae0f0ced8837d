"""One model of kind `lm` in service: the core in a thread of its own, and the face that other threads see.

| thread          | does                                                                            |
| --------------- | ------------------------------------------------------------------------------- |
| any             | `submit`: checks, tokenizes, takes a place in the queue; `abort`, `stats`       |
| step thread     | owns the core: obeys commands, then steps, as long as there is work             |
| delivery thread | detokenizes, finds stop strings, calls the sinks                                |
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
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
from runtime.errors import ModelError, RequestFault
from runtime.golden import check_golden
from runtime.live import LiveRequest, Sink
from runtime.planning import Planner
from runtime.queue_places import QueuePlaces
from runtime.request import Request
from runtime.session import LmSession
from runtime.text import Tokenizer

Command = Callable[[], None]
logger = logging.getLogger(__name__)

_UNLOADED = Fault(FaultCode.UNAVAILABLE, "the model is being unloaded")


@dataclass(frozen=True, slots=True)
class EngineStats:
    running: int  # sequences in slots
    waiting: int  # requests without a slot
    slots: int
    kv_tokens_used: int
    kv_tokens_capacity: int
    generated_tokens: int
    prompt_tokens: int
    reused_tokens: int  # prompt tokens found in the cache instead of being run
    steps: int
    queue_seconds: float  # sums over finished requests, as the next two
    prefill_seconds: float
    decode_seconds: float
    finished: dict[FinishReason, int]  # sequences


class Engine:
    def __init__(
        self, manifest: Manifest, config: EngineConfig, session: LmSession, tokenizer: Tokenizer
    ) -> None:
        self.manifest = manifest
        self.config = config
        self.tokenizer = tokenizer
        self._places = QueuePlaces(config.max_queued, config.max_queued_tokens)
        self._planner = Planner(tokenizer, manifest.architecture)
        self._core = EngineCore(session, manifest.architecture, config, self._places.leave)
        self._inbox: SimpleQueue[Command | None] = SimpleQueue()
        self._pending: set[str] = set()  # accepted, not answered yet
        self._pending_changed = threading.Condition()
        self._accepting = True
        self._delivery = Delivery(
            self._forget, lambda live, fault: self._abort(live.request.request_id, fault)
        )
        self._thread = threading.Thread(target=self._run, name="lmaas-step", daemon=True)
        self._thread.start()

    @classmethod
    def load(cls, folder: Path) -> Engine:
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
        session = LmSession(folder / manifest.variants[config.variant].graph.path, config.threads)
        tokenizer = Tokenizer(folder / TOKENIZER_FILE, manifest.architecture.eos_token_id)
        engine = cls(manifest, config, session, tokenizer)
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
            if not self._accepting:
                raise RequestFault(_UNLOADED)
            if request.request_id in self._pending:
                raise RequestFault.invalid("request_id", f"{request.request_id!r} is under way already")
            self._places.take(live)
            self._pending.add(request.request_id)
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
            kv_tokens_capacity=core.cache.num_slots * core.cache.context_length,
            generated_tokens=counters.generated_tokens,
            prompt_tokens=counters.prompt_tokens,
            reused_tokens=core.cache.reused_tokens,
            steps=counters.steps,
            queue_seconds=counters.queue_seconds,
            prefill_seconds=counters.prefill_seconds,
            decode_seconds=counters.decode_seconds,
            finished={reason: counters.finished[reason] for reason in FinishReason},
        )

    def drain(self, timeout: float) -> bool:
        """Accept nothing more and wait, at most `timeout` seconds; whether all requests were answered."""
        with self._pending_changed:
            self._accepting = False
            return self._pending_changed.wait_for(lambda: not self._pending, timeout)

    def close(self) -> None:
        """Fail what is under way and end both threads; every request has had its outcome by then."""
        with self._pending_changed:
            self._accepting = False
        self._inbox.put(None)
        self._thread.join()
        self._delivery.close()

    def _abort(self, request_id: str, fault: Fault) -> None:
        self._inbox.put(partial(self._core.abort, request_id, fault))

    def _stop(self, live: LiveRequest, index: int) -> None:
        self._inbox.put(partial(self._core.stop, live, index))

    def _forget(self, live: LiveRequest) -> None:
        with self._pending_changed:
            self._pending.discard(live.request.request_id)
            self._pending_changed.notify_all()

    def _run(self) -> None:
        while True:
            try:
                if not self._obey():
                    break
                if events := self._core.step():
                    self._delivery.put(events)
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
            while command := self._inbox.get(block=wait):
                command()
                wait = False
        except Empty:
            return True
        return False
