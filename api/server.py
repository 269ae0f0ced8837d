"""The façade under uvicorn, draining when it is told to stop."""

from __future__ import annotations

import asyncio
import socket

import uvicorn
from starlette.applications import Starlette

from api.config import Settings
from api.middle.startup import Appliance, Phase

BACKLOG = 2048
LAST_SECONDS = 1  # for connections to end after the drain has ended every task


class Server(uvicorn.Server):
    """Ends the tasks before the connections; uvicorn alone would wait for streams, then cut them silently."""

    def __init__(self, app: Starlette, settings: Settings) -> None:
        self._appliance: Appliance = app.state.appliance
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                backlog=BACKLOG,
                access_log=False,  # api/front/middleware.py logs
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=int(settings.drain_seconds) + LAST_SECONDS,
            )
        )

    @property
    def failure(self) -> str | None:
        """Why the bring-up failed, in one line."""
        return self._appliance.failure

    async def on_tick(self, counter: int) -> bool:
        """Stop serving once the bring-up has failed: there is nothing to wait for."""
        return await super().on_tick(counter) or self._appliance.phase is Phase.FAILED

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        draining = asyncio.create_task(self._appliance.drain())
        await super().shutdown(sockets)
        await draining
