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
from api.shared_listener import SharedListener

BACKLOG = 2048
LAST_SECONDS = 1  # for connections to end after the drain has ended every task
OPEN_FILES = 65_536  # more would serve nobody, and some programs walk through all that they may have
OWN_FILES = 128  # of the database, the blob store, model servers and logs; half of them were seen in use
MOST_CONNECTIONS = 8192
TICKS_A_SECOND = 10  # of uvicorn
READY_SECONDS = 30.0  # that a façade among several may take, once it serves, until all its models answer


class Server(uvicorn.Server):
    """Ends the tasks before the connections; uvicorn alone would wait for streams, then cut them silently."""

    def __init__(self, app: Starlette, settings: Settings, shared: SharedListener | None = None) -> None:
        """`shared` is used once this façade is ready, so that callers do not get a 503 where another one can
        answer."""
        self._appliance: Appliance = app.state.appliance
        self._shared = shared
        self._shares = False  # it takes connections from there
        self._serves_since: float | None = None
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
        config = cast("Config", self.config)
        if config.ssl is not None:
            # asyncio would not count a connection before the end of its handshake.
            config.tls, config.ssl = config.ssl, None
            config.http_protocol_class = Handshake
        await super().startup(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Stop serving once the bring-up has failed: there is nothing to wait for."""
        if counter % TICKS_A_SECOND == 0:
            now = asyncio.get_running_loop().time()
            for connection in cast("list[Connection | Handshake]", list(self.server_state.connections)):
                connection.check(now)
        if self._shared is not None:
            self._share(self._shared)
        return await super().on_tick(counter) or self._appliance.phase is Phase.FAILED

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        draining = asyncio.create_task(self._appliance.drain())
        if self._shared is not None:
            self._shared.stop()
        await super().shutdown(sockets)
        await draining

    def _may_share(self) -> bool:
        """Ready, or not for so long that only a caller can change it."""
        if self._appliance.phase is not Phase.SERVING:
            return False
        now = asyncio.get_running_loop().time()
        self._serves_since = self._serves_since or now
        return self._appliance.readiness().ready or now - self._serves_since > READY_SECONDS

    def _share(self, shared: SharedListener) -> None:
        """Once a tick."""
        if self._shares:
            shared.publish()
        elif self._may_share():
            self._shares = True
            config, connections = cast("Config", self.config), self.server_state.connections
            protocol = cast("Callable[..., asyncio.Protocol]", config.http_protocol_class)
            shared.start(
                lambda: protocol(config, self.server_state, self.lifespan.state), lambda: len(connections)
            )


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
