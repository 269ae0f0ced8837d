"""Callbacks: a signed message to the caller's own server when its task is over.

The form is that of Standard Webhooks (standardwebhooks.com): `webhook-id`, `webhook-timestamp` and
`webhook-signature`, which is HMAC-SHA256 of these two and the body. A message may come more than once, and
then has the same id. What is to be sent is in the database, so that it outlives this process.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import logging
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import urlsplit

from api.back.store.callbacks import CallbackStore
from api.back.store.records import TaskRecord, now
from api.errors import InvalidInput, StoreUnavailable
from api.middle.job import Job
from api.middle.outgoing import SECONDS, check_url, post

FIELD = "callback_url"
MAX_ATTEMPTS = 10  # within some five hours
FIRST_WAIT_SECONDS = 5.0  # then four times as long each time
LONGEST_WAIT_SECONDS = 3600.0
AT_ONCE = 20
LEASE = timedelta(seconds=3 * SECONDS)
POLL_SECONDS = 5.0
GONE = 410  # the receiver wants no more
ENCODED = "whsec_"  # before a secret in base64

OUTCOMES = DELIVERED, FAILED, GIVEN_UP = (
    "delivered",
    "failed",
    "given-up",
)  # of an attempt; failed: it is made again

log = logging.getLogger(__name__)


class Callbacks:
    """Sends what is due. Belongs to one event loop."""

    def __init__(
        self,
        store: CallbackStore,
        secret: str | None,
        *,
        private: bool,
        count: Callable[[str], None] = lambda outcome: None,
    ) -> None:
        """`count` is called with the outcome of each attempt, one of OUTCOMES."""
        self._store = store
        self._key = None if secret is None else key_of(secret)
        self._private = private
        self._count = count
        self._over = asyncio.Event()  # a task with a callback
        self._loop: asyncio.Task[None] | None = None

    def check(self, url: str) -> None:
        """Raises InvalidInput: this server does not call the address."""
        if self._key is None:
            raise InvalidInput.of(
                FIELD, "the server sends no callbacks: its LMAAS_CALLBACK_SECRET is not set"
            )
        check_url(FIELD, url, private=self._private)

    def note(self, job: Job) -> None:
        """A task has ended here."""
        if job.record.callback_url is not None:
            self._over.set()

    def start(self) -> None:
        if self._key is not None:
            self._loop = asyncio.create_task(self._send_regularly(self._key))

    async def stop(self) -> None:
        """What is under way is sent again when its lease ends, by any façade."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)

    async def _send_regularly(self, key: bytes) -> None:
        while True:
            self._over.clear()
            try:
                while due := await self._store.claim(AT_ONCE, LEASE):
                    await asyncio.gather(*(self._send(record, key) for record in due))
            except StoreUnavailable:  # the store logs it
                pass
            except Exception:
                log.exception("callbacks were not sent; they are tried again")
            try:
                await asyncio.wait_for(self._over.wait(), POLL_SECONDS)
            except asyncio.TimeoutError:
                continue

    async def _send(self, record: TaskRecord, key: bytes) -> None:
        """One attempt. Raises StoreUnavailable."""
        url = record.callback_url or ""
        body = message(record)
        try:
            status: int | None = await post(url, headers(record.id, body, key), body, private=self._private)
            problem = f"status {status}"
        except Exception as error:  # whatever a foreign server causes is a failure like any other
            status, problem = None, f"{type(error).__name__}: {error}"
        if status is not None and 200 <= status < 300:
            self._count(DELIVERED)
            await self._store.settle(record, None)
            return
        last = status == GONE or record.callback_attempts >= MAX_ATTEMPTS
        log.warning(
            "callback of task %s to %s failed (%s), attempt %d of %d",
            record.id, urlsplit(url).hostname, problem[:200], record.callback_attempts, MAX_ATTEMPTS,
        )  # fmt: skip
        wait = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 4.0 ** (record.callback_attempts - 1))
        self._count(GIVEN_UP if last else FAILED)
        await self._store.settle(record, None if last else now() + timedelta(seconds=wait))


def message(record: TaskRecord) -> bytes:
    """That the task is over, and how; the result is fetched with the caller's key."""
    fields = {
        "id": record.id,
        "object": "task",
        "type": record.type,
        "state": record.state.value,
        "model": record.model,
        "error": None if record.error is None else record.error.slug,
        "created": record.created.isoformat(),
        "finished": None if record.finished is None else record.finished.isoformat(),
    }
    over = {"type": f"task.{record.state.value}", "timestamp": fields["finished"], "data": fields}
    return json.dumps(over).encode()


def headers(task_id: str, body: bytes, key: bytes) -> dict[str, str]:
    timestamp = str(int(now().timestamp()))
    signed = hmac.digest(key, b".".join((task_id.encode(), timestamp.encode(), body)), hashlib.sha256)
    return {
        "content-type": "application/json",
        "user-agent": "lmaas",
        "webhook-id": task_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
    }


def key_of(secret: str) -> bytes:
    """Of a secret as Standard Webhooks writes it, or of any other text."""
    if secret.startswith(ENCODED):
        try:
            return base64.b64decode(secret.removeprefix(ENCODED), validate=True)
        except binascii.Error:
            pass
    return secret.encode()
