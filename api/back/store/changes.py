"""What other façades change in the database: PostgreSQL reports it at once (LISTEN and NOTIFY).

A notice says only where to look. SQLite has none, and PostgreSQL's get lost while the connection is away: who
waits for one looks by itself after `poll_seconds`, too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

CHANNEL = "lmaas"
FREE = "free"  # the topic of tasks that lost their owner; other topics are ids of workers and tasks
MAX_PAYLOAD = 7500  # bytes; PostgreSQL takes less than 8000
RECONNECT_SECONDS = 1.0
POLL_SECONDS = 0.5
POLL_SECONDS_WITH_NOTICES = 5.0

logger = logging.getLogger(__name__)


class Subscription:
    """Keeps a notice that comes between two waits."""

    def __init__(self) -> None:
        self.noticed = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Return at a notice, or when the seconds are over."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.noticed.wait(), seconds)
        self.noticed.clear()


class Changes:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self._subscribers: dict[str, set[Subscription]] = {}
        self._live = False

    @classmethod
    @asynccontextmanager
    async def open(cls, engine: AsyncEngine) -> AsyncIterator[Changes]:
        changes = cls()
        if engine.dialect.name != "postgresql":
            yield changes
            return
        listening = asyncio.create_task(changes._listen(engine))
        try:
            yield changes
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    @property
    def poll_seconds(self) -> float:
        """After how long to look without a notice."""
        return POLL_SECONDS_WITH_NOTICES if self._live else POLL_SECONDS

    @contextmanager
    def subscribed(self, *topics: str) -> Iterator[Subscription]:
        subscription = Subscription()
        for topic in topics:
            self._subscribers.setdefault(topic, set()).add(subscription)
        try:
            yield subscription
        finally:
            for topic in topics:
                self._subscribers[topic].discard(subscription)
                if not self._subscribers[topic]:
                    del self._subscribers[topic]

    async def announce(self, connection: AsyncConnection, topics: Collection[str]) -> None:
        """Others hear it when the transaction of `connection` is committed."""
        if connection.dialect.name != "postgresql":
            return
        for payload in _payloads(topics):
            values = {"channel": CHANNEL, "payload": payload}
            await connection.execute(text("SELECT pg_notify(:channel, :payload)"), values)

    async def _listen(self, engine: AsyncEngine) -> None:
        import psycopg

        arguments, options = engine.dialect.create_connect_args(engine.url)
        while True:
            with suppress(psycopg.Error, OSError):
                connection = await psycopg.AsyncConnection.connect(*arguments, autocommit=True, **options)
                async with connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    self._live = True
                    self._tell(list(self._subscribers))  # what came before was not heard
                    async for notice in connection.notifies():
                        self._tell(notice.payload.split())
            if self._live:
                logger.warning("the database sends no notices at present; looking every %g s", POLL_SECONDS)
            self._live = False
            await asyncio.sleep(RECONNECT_SECONDS)

    def _tell(self, topics: Collection[str]) -> None:
        for topic in topics:
            for subscription in self._subscribers.get(topic, ()):
                subscription.noticed.set()


def _payloads(topics: Collection[str]) -> Iterator[str]:
    payload = ""
    for topic in topics:
        if len(payload) + len(topic) > MAX_PAYLOAD:
            yield payload
            payload = ""
        payload = f"{payload} {topic}".strip()
    if payload:
        yield payload
