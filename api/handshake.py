"""A connection from its first byte to the end of its TLS handshake: it counts, has a deadline and gives way.

asyncio's own server hands over a connection only after its handshake, however long that takes.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from contextlib import suppress
from typing import Any, cast

from uvicorn.server import ServerState

from api.connection import Config, Connection, make_room


class Handshake(asyncio.Protocol):
    """Stands in `server_state.connections` until a SecureConnection takes its place."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._connections = cast("set[Any]", server_state.connections)
        self._secured = SecureConnection(config, server_state, app_state, _loop)
        self._secured.handshake = self
        self._socket: socket.socket
        self._task: asyncio.Task[None] | None = None
        self.waits_since = self._loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Leave the transport before it reads anything: one with TLS is made of a copy of its socket."""
        raw = cast("asyncio.Transport", transport)
        self._socket = socket.socket(fileno=os.dup(raw.get_extra_info("socket").fileno()))
        self._socket.setblocking(False)
        raw.abort()
        self._connections.add(self)
        if make_room(self, self._connections, self._config.bounds.max_connections):
            self._task = self._loop.create_task(self._shake_hands())
        else:
            self.give_way()

    async def _shake_hands(self) -> None:
        try:
            with suppress(OSError):  # ssl.SSLError is one
                await self._loop.connect_accepted_socket(
                    lambda: self._secured,
                    self._socket,
                    ssl=cast("ssl.SSLContext", self._config.tls),
                    ssl_handshake_timeout=self._config.bounds.head_seconds,
                )
        finally:
            self.leave()

    def leave(self) -> None:
        """It counts no longer."""
        self._connections.discard(self)

    def check(self, now: float) -> None:
        """Nothing is due: the handshake has its own deadline."""

    def give_way(self) -> None:
        self.leave()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # which ends the handshake
        if self._task is None:
            self._socket.close()

    shutdown = give_way


class SecureConnection(Connection):
    handshake: Handshake

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.handshake.leave()
        self._since = self.loop.time()
        super().connection_made(transport)
