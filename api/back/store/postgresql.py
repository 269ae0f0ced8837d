"""Connections to PostgreSQL that fail when the server no longer answers, for example because it is stopped.

TCP's own limits do not help there: the system of a stopped server still confirms what it receives.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
from psycopg import waiting
from psycopg.abc import RV, PQGen

ANSWER_SECONDS = 1.0  # without an answer, after which a statement is in doubt
REST_SECONDS = 1.0  # after a failure, in which no other caller waits for the server
INTERVAL_SECONDS = 0.1  # between two looks at the time
NO_ANSWER = "the server does not answer"


class NoAnswer(psycopg.OperationalError):
    """Nothing came back in time. The connection is closed."""


class Connection(psycopg.AsyncConnection[Any]):
    """A statement in doubt fails unless the server takes another connection: then it is only slow."""

    connect_again: Callable[[], Awaitable[Connection]]

    async def wait(
        self, gen: PQGen[RV], interval: float = INTERVAL_SECONDS, timeout: float | None = None
    ) -> RV:
        """Drive `gen`, a libpq operation. Raises NoAnswer.

        When the task is cancelled, psycopg's own method asks the server to cancel, and waits for it.
        """
        try:
            return await waiting.wait_async(self._watched(gen, interval), self.pgconn.socket, interval)
        except (asyncio.CancelledError, NoAnswer):
            self.pgconn.finish()  # its state is unknown: SQLAlchemy throws it away
            raise

    def _watched(self, gen: PQGen[RV], interval: float) -> PQGen[RV]:
        """Pass on what `gen` yields. It is sent 0 after each interval in which nothing came."""
        quiet = 0.0
        probe: asyncio.Task[bool] | None = None
        try:
            state = next(gen)
            while True:
                ready = yield state
                quiet = 0.0 if ready else quiet + interval
                if probe is not None and probe.done():
                    if not probe.result():
                        raise NoAnswer(NO_ANSWER)
                    quiet, probe = 0.0, None
                elif probe is None and quiet >= ANSWER_SECONDS:
                    if self.autocommit:  # SQLAlchemy's ping of a pooled connection, which it replaces
                        raise NoAnswer(NO_ANSWER)
                    probe = asyncio.create_task(self._server_answers())
                state = gen.send(ready)
        except StopIteration as end:
            result: RV = end.value
            return result
        finally:
            if probe is not None:
                probe.cancel()

    async def _server_answers(self) -> bool:
        try:
            await (await self.connect_again()).close()
        except NoAnswer:
            return False
        except psycopg.Error:  # a refusal is an answer too
            return True
        return True


class Connector:
    """Connects for one engine. After a failure, it fails at once for a second."""

    def __init__(self) -> None:
        self._failed = float("-inf")

    async def __call__(self, *arguments: Any, **options: Any) -> Connection:
        """Raises NoAnswer after `connect_timeout`; what else psycopg raises."""
        if time.monotonic() - self._failed < REST_SECONDS:
            raise NoAnswer(NO_ANSWER)
        try:
            connection = await Connection.connect(*arguments, **options)
        except psycopg.errors.ConnectionTimeout:
            self._failed = time.monotonic()
            raise NoAnswer(NO_ANSWER) from None
        connection.connect_again = lambda: self(*arguments, **options)
        return connection
