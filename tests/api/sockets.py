"""A client that sends its own bytes, and a façade on a port for it."""

from __future__ import annotations

import asyncio
import socket
import ssl

from api.server import Server
from tests.api.asgi import until

HEALTH = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
BODY = b'{"prompt": "a"}'
WHOLE = POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, fields and body of the next answer."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines)
        return int(first.split()[1]), fields, await self._reader.readexactly(int(fields["content-length"]))

    async def ask(self, data: bytes) -> int:
        await self.send(data)
        return (await self.answer())[0]

    async def some(self) -> bytes:
        """What comes next."""
        return await self._reader.read(2**16)

    async def ended(self) -> bytes:
        """What comes before the server closes the connection."""
        try:
            return await self._reader.read()
        except ConnectionResetError:
            return b""

    def leave(self) -> None:
        self._writer.close()


class Served:
    """The façade on a port, over a back layer in memory."""

    def __init__(self, server: Server, port: int) -> None:
        self.server = server
        self.port = port
        self._clients: list[Client] = []

    async def client(self, *, buffer: int = 0, tls: ssl.SSLContext | None = None) -> Client:
        """A new connection, which takes few bytes before it is read, and has done its handshake."""
        raw = socket.socket()
        raw.setblocking(False)
        if buffer:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", self.port))
        name = None if tls is None else "127.0.0.1"
        streams = await asyncio.open_connection(
            sock=raw, limit=buffer or 2**16, ssl=tls, server_hostname=name
        )
        self._clients.append(Client(*streams))
        return self._clients[-1]

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)

    async def stop(self, task: asyncio.Task[None]) -> None:
        for client in self._clients:
            client.leave()
        self.server.should_exit = True
        await task


async def started(server: Server) -> tuple[asyncio.Task[None], int]:
    """The server's task, and the port that it took."""
    task = asyncio.ensure_future(server._serve())  # without the signal handlers, which belong to the process
    await until(lambda: server.started)
    port: int = server.servers[0].sockets[0].getsockname()[1]
    return task, port
