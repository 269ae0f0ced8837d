"""The façade under uvicorn; it drains before it stops."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Callable
from typing import cast

import uvicorn
from starlette.applications import Starlette

from api.bounds import Bounds
from api.config import Settings
from api.connection import Config, Connection
from api.handshake import Handshake
from api.middle.startup import Appliance, Phase
from api.shared_listener import UNREADY, SharedListener

BACKLOG = 2048
LAST_SECONDS = 1  # for connections to end after the drain has ended every task
OPEN_FILES = 65_536  # more are of no use, and some programs walk through all that they may have
OWN_FILES = 128  # of the database, the blob store, model servers and logs; half of them were seen in use
MOST_CONNECTIONS = 8192
TICKS_A_SECOND = 10  # of uvicorn


class Server(uvicorn.Server):
    """Ends the tasks before the connections; uvicorn alone would wait for streams, then cut them silently."""

    def __init__(self, app: Starlette, settings: Settings, shared: SharedListener | None = None) -> None:
        """`shared` is where several façades accept, beside the sockets that are this one's alone."""
        self._appliance: Appliance = app.state.appliance
        self._shared = shared
        self._handicap = UNREADY
        bounds = Bounds(
            head_seconds=settings.head_timeout_seconds,
            stall_seconds=settings.stall_timeout_seconds,
            keep_alive_seconds=settings.keep_alive_seconds,
            max_connections=settings.max_connections or connections_for(_open_files()),
        )
        super().__init__(
            Config(
                app,
                bounds,
                app.state.metrics,
                host=settings.host,
                port=settings.port,
                backlog=BACKLOG,
                access_log=False,  # api/front/middleware.py logs
                log_config=None,
                server_header=False,
                ssl_certfile=settings.tls_certificate,
                ssl_keyfile=settings.tls_key,
                timeout_keep_alive=settings.keep_alive_seconds,
                timeout_graceful_shutdown=int(settings.drain_seconds) + LAST_SECONDS,
            )
        )

    @property
    def failure(self) -> str | None:
        """Why the bring-up failed, in one line."""
        return self._appliance.failure

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        config, state = cast("Config", self.config), self.server_state
        if config.ssl is not None:
            # asyncio would not count a connection before the end of its handshake.
            config.tls, config.ssl = config.ssl, None
            config.http_protocol_class = Handshake
        await super().startup(sockets)
        if self._shared is not None:
            protocol = cast("Callable[..., asyncio.Protocol]", config.http_protocol_class)
            self._shared.start(
                lambda: protocol(config, state, self.lifespan.state),
                lambda: len(state.connections) + self._handicap,
            )

    async def on_tick(self, counter: int) -> bool:
        """Stop serving once the bring-up has failed: there is nothing to wait for."""
        if counter % TICKS_A_SECOND == 0:
            now = asyncio.get_running_loop().time()
            for connection in cast("list[Connection | Handshake]", list(self.server_state.connections)):
                connection.check(now)
        if self._shared is not None:
            self._handicap = 0 if self._appliance.readiness().ready else UNREADY
            self._shared.publish()
        return await super().on_tick(counter) or self._appliance.phase is Phase.FAILED

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        draining = asyncio.create_task(self._appliance.drain())
        if self._shared is not None:
            self._shared.stop()
        await super().shutdown(sockets)
        await draining


def allow_many_files() -> None:
    """Take what the system allows this process anyway: the usual limit of 1,024 is one for `select`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # then the limit stays as it is
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _open_files() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return OPEN_FILES if soft == resource.RLIM_INFINITY else soft


def connections_for(open_files: int) -> int:
    """How many connections fit: one that sends or fetches an archive has a file open beside its socket."""
    return max(16, min(MOST_CONNECTIONS, (open_files - OWN_FILES) // 2))
