"""One batch from its first check to its files.

validating --> in_progress --> finalizing --> completed
    \\--> failed     \\--> expired
validating, in_progress --> cancelling --> cancelled
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from api.back.store.batches import BatchStore
from api.back.store.files import FileDownload
from api.back.store.keys import KeyStore
from api.back.store.records import BatchError, BatchRecord, BatchResult, BatchState, now
from api.errors import ApiError, NotFound, Overloaded, RateLimited, RetryLater, ServerFault
from api.middle.allowances import Allowances
from api.middle.batch_input import ENVELOPE_BYTES, InputCheck, read_lines
from api.middle.batch_lines import LineFormat, LineTask, answered_line, failed_line
from api.middle.batch_output import BatchOutput
from api.middle.chat import Chat
from api.middle.files import Files
from api.middle.gaps import Gaps
from api.middle.handlers.base import Handler, error_field
from api.middle.job import Job
from api.middle.metrics import Metrics
from api.middle.new_records import new_id, new_record
from runtime.parameters import LEAST_URGENT

FLUSH_SECONDS = 1.0  # how long an answer waits for others to share its commit
MAX_ATTEMPTS = 6  # of a line whose model server is away
LONGEST_WAIT = 60.0  # seconds between two of them

log = logging.getLogger(__name__)


class Lost(Exception):
    """Another façade works on the batch."""


@dataclass(frozen=True, slots=True)
class BatchParts:
    """What all batches share."""

    store: BatchStore
    files: Files
    handlers: Mapping[str, Handler[Any, Any]]  # each sends one request at a time
    gaps: Gaps
    allowances: Allowances
    keys: KeyStore
    form: LineFormat
    chat: Chat
    metrics: Metrics
    on_end: Callable[[Job], None]  # for each request of a line that has ended, with what it used
    staging: Path  # where its files are written first
    max_body_bytes: int
    max_file_bytes: int
    ahead: int  # lines of one batch that run, or wait for a gap


class BatchRunner:
    """Set `ending` when the batch is to be cancelled. A cancelled `run` leaves the batch as it is."""

    def __init__(self, record: BatchRecord, parts: BatchParts) -> None:
        self.record = record
        self.ending = asyncio.Event()
        self._parts = parts
        self._payer = record.caller  # with the rates of its key, which the record does not have
        self._kept: list[BatchResult] = []  # answers that are not in the database yet
        self._flushing = asyncio.Lock()
        self._size = 0  # bytes of all answers, about
        if record.state is BatchState.CANCELLING:
            self.ending.set()

    async def run(self) -> None:
        """To the end of the batch, which another run may have begun. Raises Lost, StoreUnavailable."""
        try:
            file = await self._parts.files.download(self.record.caller, self.record.input_file)
        except NotFound as error:
            await self._advance(BatchState.FAILED, errors=(BatchError("input_file_not_found", error.detail),))
            return
        if self._payer.verified and (key := await self._parts.keys.get(self._payer.key)) is not None:
            self._payer = dataclasses.replace(self._payer, limits=key.limits)
        if self.record.state is BatchState.VALIDATING:
            await self._validate(file)
        if self.record.state is BatchState.IN_PROGRESS:
            await self._work(file)
        if self.record.state.open:
            await self._finish(file)

    async def _validate(self, file: FileDownload) -> None:
        check = InputCheck(self._parts.form, self.record.endpoint, self._parts.max_body_bytes)
        await self._until_ending(check.run(file))
        if self.ending.is_set():
            await self._reread()
        elif check.errors:
            await self._advance(BatchState.FAILED, errors=tuple(check.errors))
        else:
            await self._advance(BatchState.IN_PROGRESS, total=check.total)

    async def _work(self, file: FileDownload) -> None:
        done, self._size = await self._parts.store.answered(self.record)
        left = (self.record.expires - now()).total_seconds()
        flusher = asyncio.create_task(self._flush_regularly())
        try:
            await self._until_ending(self._run_lines(file, done), flusher, seconds=max(0.0, left))
        finally:
            async with self._flushing:  # not in the middle of a commit
                flusher.cancel()
            await asyncio.gather(flusher, return_exceptions=True)
            await self._flush()

    async def _until_ending(
        self, work: Any, *beside: asyncio.Task[None], seconds: float | None = None
    ) -> None:
        """Await `work`, until the batch is to end, the seconds have passed, or a task beside it fails."""
        working = asyncio.create_task(work)
        ending = asyncio.create_task(self.ending.wait())
        try:
            ended, _ = await asyncio.wait(
                {working, ending, *beside}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            for task in ended:
                task.result()
        finally:
            for task in (working, ending):
                task.cancel()
            await asyncio.gather(working, ending, return_exceptions=True)

    async def _run_lines(self, file: FileDownload, done: set[int]) -> None:
        """All lines that are not done, some at once."""
        places = asyncio.Semaphore(self._parts.ahead)
        running: set[asyncio.Task[None]] = set()

        def ended(task: asyncio.Task[None]) -> None:
            running.discard(task)
            places.release()

        try:
            async for lines in read_lines(file, self._parts.max_body_bytes + ENVELOPE_BYTES):
                for number, raw in lines:
                    if number not in done:
                        await places.acquire()
                        task = asyncio.create_task(self._run_line(number, raw))
                        running.add(task)
                        task.add_done_callback(ended)
            await asyncio.gather(*running)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _run_line(self, number: int, raw: bytes) -> None:
        endpoint, form, request_id = self.record.endpoint, self._parts.form, new_id()
        line = form.read(raw, endpoint)
        try:
            asked = await form.task(endpoint, line.body, self._parts.chat)
            self.record.caller.require_model(asked.model)
            with error_field(asked.prompt_field, ("prompt",)):
                answer = await self._answer(asked, request_id)
            status, body = 200, asked.shape(answer)
        except ApiError as error:
            status, body = form.refusal(endpoint, error, request_id)
        except Exception:
            log.exception("line %d of batch %s failed", number, self.record.id)
            fault = ServerFault("the line failed by a defect of the server; its log says more")
            status, body = form.refusal(endpoint, fault, request_id)
        text = answered_line(request_id, line.custom_id, status, body)
        if self._size + len(text) > self._parts.max_file_bytes:
            message = f"the answers have more than {self._parts.max_file_bytes} bytes, the limit"
            status, text = 413, failed_line(request_id, line.custom_id, "output_too_large", message)
        self._size += len(text)
        self._kept.append(BatchResult(number, status != 200, text))
        self._parts.metrics.batch_lines.labels("completed" if status == 200 else "failed").inc()

    async def _answer(self, asked: LineTask, request_id: str) -> BaseModel:
        """Try again while a model server is full, and several times while it is away."""
        handler = self._parts.handlers[asked.type]
        parameters = asked.parameters.model_copy(update={"priority": LEAST_URGENT})
        attempt = 1
        while True:
            record = new_record(handler, parameters, self.record.caller, self._parts.store.worker)
            job = Job(record, parameters)
            await self._take_tokens(job)
            try:
                return await self._parts.gaps.run(job, partial(handler.run, parameters, job))
            except Overloaded as refusal:
                wait = refusal.retry_after
            except RetryLater as refusal:
                if attempt == MAX_ATTEMPTS:
                    raise
                wait = max(refusal.retry_after, 2.0**attempt)
                attempt += 1
            finally:
                self._parts.allowances.give_back(self._payer, job.need - job.tokens_to_pay)
                self._parts.on_end(job)
            await asyncio.sleep(min(wait, LONGEST_WAIT))

    async def _take_tokens(self, job: Job) -> None:
        """Wait until the rate of the caller's key has room for a request of a line."""
        while True:
            try:
                self._parts.allowances.take_spare(self._payer, job.need)
            except RateLimited as refusal:  # noqa: PERF203 - trying again is the point
                await asyncio.sleep(min(refusal.retry_after, LONGEST_WAIT))
            else:
                return

    async def _flush_regularly(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self._flush()

    async def _flush(self) -> None:
        """Raises Lost; StoreUnavailable: the lines of these answers will run again."""
        async with self._flushing:
            results, self._kept = self._kept, []
            if results and not await self._parts.store.add_results(self.record, results):
                raise Lost

    async def _finish(self, file: FileDownload) -> None:
        done, _ = await self._parts.store.answered(self.record)
        if self.record.state is BatchState.IN_PROGRESS and len(done) == self.record.total:
            await self._advance(BatchState.FINALIZING)
        elif self.record.state is BatchState.IN_PROGRESS:
            await self._reread()
        output = BatchOutput(self.record, self._parts, file)
        if self.record.state is BatchState.CANCELLING:
            written = await output.write(
                done, "batch_cancelled", "the batch was cancelled before this request ran"
            )
            await self._advance(BatchState.CANCELLED, **written)
        elif len(done) < self.record.total:
            if now() < self.record.expires:
                return  # a clock was set back: the batch is claimed again
            written = await output.write(done, "batch_expired", "the batch expired before this request ran")
            await self._advance(BatchState.EXPIRED, **written)
        else:
            await self._advance(BatchState.COMPLETED, **await output.write(done))

    async def _advance(self, state: BatchState, **changes: Any) -> None:
        """Give it the next state; where it is to be cancelled meanwhile, it keeps that one. Raises Lost."""
        moved = await self._parts.store.advance(self.record, state, **changes)
        if moved is None:
            await self._reread()
        else:
            self.record = moved

    async def _reread(self) -> None:
        """Raises Lost."""
        found = await self._parts.store.current(self.record)
        if found is None:
            raise Lost
        self.record = found
