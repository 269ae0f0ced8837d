"""Keeps one Triton alive: starts it, starts it again when it dies, and ends it."""

from __future__ import annotations

import asyncio
import logging
import time

from api.back.cluster.installation import Installation
from api.back.cluster.messages import RETRY_SECONDS
from api.back.cluster.records import ServerState
from api.back.cluster.server import ModelServer
from api.back.cluster.triton_process import HOST, Ports, TritonProcess
from api.back.settings import BackSettings
from api.errors import ServerFault, Unavailable

STABLE_SECONDS = 60.0  # a server that ran as long owes nothing to its predecessor's crash
MAX_BACKOFF_SECONDS = 30.0

logger = logging.getLogger(__name__)


class Supervisor:
    """Each start gives a new `ModelServer`; who holds an old one finds its `gone` set."""

    def __init__(self, settings: BackSettings, installation: Installation) -> None:
        self._settings = settings
        self._installation = installation
        self._process: TritonProcess | None = None
        self._server: ModelServer | None = None
        self._came = asyncio.Condition()
        self._keeping: asyncio.Task[None] | None = None
        self._crashes = 0  # in a row, without a stable run between them
        self.ports = Ports.choose(settings)
        self.state = ServerState.STARTING
        self.restarts = 0
        self.backoff = 0.0  # seconds until the next attempt to start

    async def start(self) -> None:
        """Start Triton, and keep it from then on. Raises ServerFault where it does not come up."""
        await self._start()
        self._keeping = asyncio.create_task(self._keep())

    @property
    def process(self) -> TritonProcess | None:
        return self._process

    @property
    def server(self) -> ModelServer:
        """The server, running. Raises Unavailable while there is none."""
        if self._server is None:
            raise Unavailable("the model server is restarting", self.backoff + RETRY_SECONDS)
        return self._server

    async def running(self) -> ModelServer:
        """Wait until there is one."""
        async with self._came:
            while self._server is None:
                await self._came.wait()
            return self._server

    async def restart(self, server: ModelServer, reason: str) -> None:
        """End this server, if it is still the current one; a new one comes. Returns when it is gone."""
        if server is self._server and self._process is not None:
            logger.warning("restarting Triton: %s", reason)
            await self._process.kill()
        await server.gone.wait()

    async def stop(self) -> None:
        """End Triton and all its stubs."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
        self.state = ServerState.STOPPED
        await self._retire()
        if self._process is not None:
            await self._process.stop()

    async def _start(self) -> None:
        self._process = await TritonProcess.start(self._settings, self._installation, self.ports)
        async with self._came:
            self._server = ModelServer(f"{HOST}:{self.ports.grpc}")
            self.state = ServerState.READY
            self._came.notify_all()

    async def _retire(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.close()

    async def _keep(self) -> None:
        while True:
            try:
                await self._follow()
            except Exception:  # noqa: PERF203 - no disk or descriptors now: Triton has to come back all the same
                logger.exception("Triton could not be brought back; trying again")
                await asyncio.sleep(RETRY_SECONDS)

    async def _follow(self) -> None:
        """Wait for the end of the process, and start the next."""
        process, began = self._process, time.monotonic()
        if process is not None:
            status = await process.wait()
            self.state = ServerState.RESTARTING
            logger.error("Triton (process %d) ended with status %d", process.pid, status)
            await self._retire()
            await process.kill()  # its stubs go with it
        self._crashes = 1 if time.monotonic() - began > STABLE_SECONDS else self._crashes + 1
        await self._wait_backoff()
        self.restarts += 1
        try:
            await self._start()
        except (ServerFault, OSError) as error:
            logger.error("Triton does not start: %s", error)
            self._process = None
            self.ports = Ports.choose(self._settings)  # one may have been taken meanwhile

    async def _wait_backoff(self) -> None:
        """The first restart comes at once, the next after 1 s, 2 s, 4 s ..."""
        if self._crashes > 1:
            self.backoff = min(MAX_BACKOFF_SECONDS, 2.0 ** (self._crashes - 2))
            await asyncio.sleep(self.backoff)
        self.backoff = 0.0
