"""Batches: submitted, listed, cancelled, and worked on by this façade or another one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from api.back.store.batches import BatchStore
from api.back.store.records import BatchError, BatchRecord, BatchState, now
from api.caller import Caller, Scope
from api.errors import InvalidInput, Overloaded, StoreUnavailable
from api.middle.batch_runner import BatchParts, BatchRunner, Lost
from api.middle.files import BATCH_INPUT, owner_of

WINDOW = timedelta(hours=24)
BEAT_SECONDS = 1.0  # between two looks for batches to take up, and for those to cancel
SWEEP_SECONDS = 3600.0  # between two looks for records that are too old
RETRY_SECONDS = 30.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How many batches may be under way, and how long the record of one is kept."""

    of_one_caller: int
    of_all: int
    retention: timedelta


class Batches:
    """A caller sees its own batches, an administrator those of all. Belongs to one event loop."""

    def __init__(self, parts: BatchParts, limits: BatchLimits) -> None:
        self._parts = parts
        self._store: BatchStore = parts.store
        self._limits = limits
        self._runners: dict[str, tuple[BatchRunner, asyncio.Task[None]]] = {}
        self._loop: asyncio.Task[None] | None = None
        self._swept = 0.0  # time.monotonic()
        parts.metrics.batches_open.set_function(lambda: len(self._runners))

    async def create(
        self, caller: Caller, endpoint: str, window: str, input_file: str, notes: Mapping[str, str] | None
    ) -> BatchRecord:
        """Durable when it returns. Raises Forbidden, NotFound, InvalidInput, Conflict, Overloaded."""
        caller.require(Scope.INFER)
        files = self._parts.files
        file = await files.get(caller, input_file)
        if file.purpose != BATCH_INPUT:
            raise InvalidInput.of(
                "input_file_id", f"is a file of purpose {file.purpose!r}, not {BATCH_INPUT!r}"
            )
        await files.require_room(caller, 2)
        await self._require_room(caller)
        created = now()
        record = BatchRecord(
            id=f"batch_{secrets.token_hex(12)}",
            caller=caller,
            endpoint=endpoint,
            completion_window=window,
            input_file=input_file,
            notes=None if notes is None else dict(notes),
            created=created,
            expires=created + WINDOW,
            times={BatchState.VALIDATING.value: created.timestamp()},
        )
        await files.keep_until(file, record.expires + WINDOW)
        await self._store.add(record)
        return record

    async def get(self, caller: Caller, batch_id: str) -> BatchRecord:
        """Raises NotFound."""
        return await self._store.get(batch_id, owner_of(caller))

    async def list(self, caller: Caller, *, limit: int, after: str | None) -> Sequence[BatchRecord]:
        """Newest first; `after` is the id of the batch to go on after. Raises NotFound."""
        return await self._store.list(owner_of(caller), limit=limit, after=after)

    async def cancel(self, caller: Caller, batch_id: str) -> BatchRecord:
        """Its lines end at once where they run here, else within BEAT_SECONDS. Raises NotFound, Conflict."""
        record = await self._store.cancel(batch_id, owner_of(caller))
        if batch_id in self._runners:
            self._runners[batch_id][0].ending.set()
        return record

    def start(self) -> None:
        """Begin to work on batches."""
        self._loop = asyncio.create_task(self._beat_regularly())

    async def stop(self) -> None:
        """Leave the batches as they are, for other façades or the next start."""
        tasks = [task for _, task in self._runners.values()]
        if self._loop is not None:
            tasks.append(self._loop)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._loop is not None:
            with contextlib.suppress(StoreUnavailable):  # then the next start of this façade takes them up
                await self._store.release()

    async def beat(self) -> None:
        """Raises StoreUnavailable."""
        for record in await self._store.claim(list(self._runners), self._limits.of_all):
            runner = BatchRunner(record, self._parts)
            self._runners[record.id] = (runner, asyncio.create_task(self._run(runner)))
        if self._runners:
            states = await self._store.states(list(self._runners))
            for batch_id, (runner, task) in list(self._runners.items()):
                if batch_id not in states:  # another façade works on it
                    task.cancel()
                elif states[batch_id] is BatchState.CANCELLING:
                    runner.ending.set()
        if time.monotonic() - self._swept > SWEEP_SECONDS:
            self._swept = time.monotonic()
            await self._store.sweep(now() - self._limits.retention)

    async def _require_room(self, caller: Caller) -> None:
        own, total = await self._store.count_open(caller.fairness_key), await self._store.count_open(None)
        for count, limit, whose in (
            (
                own,
                self._limits.of_one_caller,
                "of your batches are under way, which is the limit for one caller",
            ),
            (total, self._limits.of_all, "batches are under way, which is the limit"),
        ):
            if count >= limit:
                raise Overloaded(f"{count} {whose}", RETRY_SECONDS)

    async def _run(self, runner: BatchRunner) -> None:
        """Where the store fails, the next beat claims the batch again."""
        batch_id = runner.record.id
        try:
            await runner.run()
        except Lost:
            log.warning("batch %s is another façade's: not worked on here any more", batch_id)
        except StoreUnavailable:
            log.warning("batch %s is interrupted, as the store cannot be used; trying again later", batch_id)
        except Exception:
            log.exception("batch %s failed", batch_id)
            fault = BatchError(
                "server_error", "the batch failed by a defect of the server; its log says more"
            )
            with contextlib.suppress(StoreUnavailable):
                await self._store.advance(runner.record, BatchState.FAILED, errors=(fault,))
        finally:
            del self._runners[batch_id]

    async def _beat_regularly(self) -> None:
        while True:
            try:
                await self.beat()
            except StoreUnavailable:  # the store logs it
                pass
            except Exception:
                log.exception("batches were not taken up")
            await asyncio.sleep(BEAT_SECONDS)
