"""A small real HTTP server that sends what a test tells it to, byte for byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Pause:
    seconds: float


class Drop:
    """The connection ends here."""


Step = bytes | Pause | type[Drop]
Answer = Callable[[Any], Iterable[Step]]


def whole(body: bytes, status: str = "200 OK", *headers: str) -> list[Step]:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers])
    return [f"{head}\r\n\r\n".encode() + body]


def chunked(*pieces: bytes) -> list[Step]:
    """Each piece a chunk, sent by itself."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return [head, *(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces), b"0\r\n\r\n"]


@dataclass
class Scripted:
    """`answer` makes the steps from a request's parsed body; `url` is where."""

    answer: Answer
    url: str = ""
    connections: int = 0
    bodies: list[Any] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await _head(reader):
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                self.bodies.append(json.loads(await reader.readexactly(length)))
                for step in self.answer(self.bodies[-1]):
                    if step is Drop:
                        return
                    if isinstance(step, Pause):
                        await asyncio.sleep(step.seconds)
                    elif isinstance(step, bytes):
                        writer.write(step)
                        await writer.drain()
        except ConnectionError:
            pass  # the client may leave at any time
        finally:
            writer.close()


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[Scripted]:
    scripted = Scripted(answer)
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    scripted.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield scripted
    finally:
        server.close()
