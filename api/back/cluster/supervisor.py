"""Keeps one server running, whatever its driver is: starts it, starts it again when it dies, and ends it."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from contextlib import suppress

from api.back.cluster.backoff import RESTART_BACKOFF_SECONDS, STABLE_SECONDS, backoff_seconds
from api.back.cluster.driver import START_SECONDS, ServerDriver
from api.back.cluster.messages import RETRY_SECONDS
from api.back.cluster.records import ServerState
from api.back.cluster.triton_client import ENDING_SECONDS, TritonClient
from api.errors import ServerFault, Unavailable

MAX_START_DOUBLINGS = 4  # a start may take twice as long after each that failed
# Between two restarts that replicas ask for. Each pause is twice as long as the last one, until the server
# ran for MAX_RESTART_SECONDS without a request for a restart.
RESTART_SECONDS = 60.0
MAX_RESTART_SECONDS = 3600.0

logger = logging.getLogger(__name__)


class RestartLimit:
    """How often a server may be restarted because its replicas ask for it. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._last = -math.inf
        self._pause = RESTART_SECONDS

    def allows(self, now: float) -> bool:
        """Whether it may be restarted now; if so, this restart is counted."""
        since = now - self._last
        if since < self._pause:
            return False
        doubled = min(MAX_RESTART_SECONDS, 2 * self._pause)
        self._pause = RESTART_SECONDS if since > MAX_RESTART_SECONDS else doubled
        self._last = now
        return True


class Supervisor:
    """Each start of the server gives a new client; the client of an earlier start has its `gone` set."""

    def __init__(self, driver: ServerDriver) -> None:
        self.driver = driver
        self.state = ServerState.STARTING
        self.restarts = 0
        self.backoff = 0.0  # seconds until the next attempt to start
        self.error: str | None = None  # how it died, or why it did not start; None while it runs
        self._drained = False  # an operator's wish, until the façade ends
        self._client: TritonClient | None = None
        self._came = asyncio.Condition()
        self._keeping: asyncio.Task[None] | None = None
        self._started = False  # the driver's last start succeeded
        self._was_tried = False  # to start it
        self._crashes = 0  # in a row, without a stable run between them
        self._failed_starts = 0  # in a row
        self._restart_limit = RestartLimit()

    @property
    def name(self) -> str:
        return self.driver.name

    @property
    def draining(self) -> bool:
        """It takes no new replicas, and requests only where no other replica can."""
        return self._drained or self.driver.leaving

    @draining.setter
    def draining(self, wish: bool) -> None:
        self._drained = wish

    async def start(self) -> None:
        """Start the server, and keep it running from then on.

        Raises ServerFault or OSError where it does not start; `keep` then tries again.
        """
        await self._start()
        self.keep()

    def keep(self) -> None:
        """Start it whenever it is not running, from now until `stop`."""
        self._keeping = asyncio.create_task(self._keep())

    @property
    def up(self) -> bool:
        return self._client is not None

    @property
    def client(self) -> TritonClient:
        """The client of the running server. Raises Unavailable while there is none."""
        if self._client is None:
            raise Unavailable("the model server is restarting", self.backoff + RETRY_SECONDS)
        return self._client

    async def running(self) -> TritonClient:
        """Wait until the server runs; returns its client."""
        async with self._came:
            while self._client is None:
                await self._came.wait()
            return self._client

    async def restart(self, client: TritonClient, reason: str) -> bool:
        """End this client's server, if it is still the current one. Returns when it is gone.

        False where it was restarted only lately, which did not help: it goes on.
        """
        if client is self._client:
            if not self._restart_limit.allows(time.monotonic()):
                logger.warning("%s is not restarted again so soon: %s", self.name, reason)
                return False
            logger.warning("restarting %s: %s", self.name, reason)
            await self.driver.kill()
        await client.gone.wait()
        return True

    async def stop(self) -> None:
        """End the server and all processes of its models."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
        self.state = ServerState.DRAINING
        await self._retire()
        await self.driver.stop()
        self.state = ServerState.DEAD

    async def _start(self) -> None:
        seconds = START_SECONDS * 2.0 ** min(self._failed_starts, MAX_START_DOUBLINGS)
        self._failed_starts += 1
        self._was_tried = True
        self._started = False
        self.state = ServerState.STARTING
        try:
            await self.driver.start(seconds)
        except (ServerFault, OSError) as error:
            self.state, self.error = ServerState.DEAD, str(error)
            logger.error("%s does not start: %s", self.name, error)
            raise
        self._started, self.error = True, None
        self._failed_starts = 0
        async with self._came:
            self._client = TritonClient(self.driver.endpoints.grpc, self.driver.key)
            self.state = ServerState.READY
            self._came.notify_all()

    async def _retire(self, *, let_end: bool = False) -> None:
        """`let_end`: a server that lets its requests end is given the time."""
        client, self._client = self._client, None
        if client is not None:
            if let_end and await client.is_ending():
                await client.idle(ENDING_SECONDS)
            await client.close()

    async def _keep(self) -> None:
        while True:
            try:
                await self._follow()
            except Exception:  # noqa: PERF203 - no disk or descriptors now: it has to come back all the same
                logger.exception("%s could not be brought back; trying again", self.name)
                await asyncio.sleep(RETRY_SECONDS)

    async def _follow(self) -> None:
        """Wait for the end of the server, and start it again."""
        began = time.monotonic()
        if self._started:
            reason = await self.driver.died()
            self.state, self.error = ServerState.DEAD, reason
            logger.error("%s died: %s", self.name, reason)
            await self._retire(let_end=self.driver.shared)
            await self.driver.kill()  # the processes of its models end with it
        self._crashes = 1 if time.monotonic() - began > STABLE_SECONDS else self._crashes + 1
        await self._wait_backoff()
        self.restarts += self._was_tried
        with suppress(ServerFault, OSError):  # logged
            await self._start()

    async def _wait_backoff(self) -> None:
        """The first restart comes at once, the next after 1 s, 2 s, 4 s ..."""
        if self._crashes > 1:
            self.backoff = backoff_seconds(self._crashes - 1, RESTART_BACKOFF_SECONDS)
            await asyncio.sleep(self.backoff)
        self.backoff = 0.0
