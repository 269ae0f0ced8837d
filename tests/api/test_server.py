"""uvicorn with the façade in it, over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket

import httpx

from api.app import create_app
from api.config import Settings
from api.server import Server
from api.shared_listener import AWAY, UNREADY, Counts, SharedListener
from tests.api.asgi import events, until
from tests.api.conftest import Run, serving
from tests.api.fakes import FakeBack, failing_open
from tests.api.front.test_streams import Gate
from tests.api.sockets import started


async def post(port: int, body: object) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    content = json.dumps(body).encode()
    lines = [
        "POST /v1/generate HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
    ]
    writer.write("\r\n".join([*lines, "", ""]).encode() + content)
    return reader, writer


def test_a_closed_connection_frees_the_slot_and_a_stop_ends_streams(
    settings: Settings, back: FakeBack, run: Run
) -> None:
    async def test() -> None:
        gate = Gate()
        back.cluster.reply = gate.reply
        changed = settings.model_copy(update={"port": 0, "drain_seconds": 0.05})
        app = create_app(changed, open_backend=back.open)
        server = Server(app, changed)
        task, port = await started(server)
        await serving(app)

        for body in ({"prompt": "a", "stream": True}, {"prompt": "a"}):
            reader, writer = await post(port, body)
            await until(lambda: back.cluster.running)
            writer.close()
            await until(lambda: not back.cluster.running)

        reader, writer = await post(port, {"prompt": "a", "stream": True})
        gate.open()
        await reader.readuntil(b"data: ")
        server.should_exit = True
        rest = await reader.read()
        chunks = b"".join(line for line in rest.split(b"\r\n") if line.startswith(b"event: error"))
        assert events(chunks)[0][1]["detail"] == "the server is stopping"
        writer.close()
        await task
        assert back.closed == 1

    run(test)


def test_of_several_one_that_is_ready_answers(settings: Settings, back: FakeBack, run: Run) -> None:
    async def test() -> None:
        back.cluster.ready = False
        changed = settings.model_copy(update={"port": 0})
        app = create_app(changed, open_backend=back.open)
        with socket.create_server(("127.0.0.1", 0)) as shared:
            counts = Counts.create(2)
            counts.set(1, 0)  # another one is ready
            server = Server(app, changed, SharedListener(shared.dup(), counts, 0))
            task, own = await started(server)
            await serving(app)
            early = httpx.AsyncClient(base_url=f"http://127.0.0.1:{shared.getsockname()[1]}", trust_env=False)
            async with early, httpx.AsyncClient(base_url=f"http://127.0.0.1:{own}", trust_env=False) as alone:
                asked = asyncio.create_task(early.get("/health/ready"))
                for _ in range(3):  # a tick or more
                    assert (await alone.get("/health/ready")).status_code == 503
                    await asyncio.sleep(0.1)
                assert not asked.done()
                counts.set(1, AWAY)
                assert (await asked).status_code == 503
                back.cluster.ready = True
                await until(lambda: counts.least(1) < UNREADY)
                counts.set(1, 0)
                assert (await early.get("/health/ready")).status_code == 200
            server.should_exit = True
            await task

    run(test)


def test_a_failed_bring_up_stops_the_server(settings: Settings, run: Run) -> None:
    async def test() -> None:
        changed = settings.model_copy(update={"port": 0})
        server = Server(
            create_app(changed, open_backend=failing_open(RuntimeError("no Triton here"))), changed
        )
        await server._serve()
        assert server.failure == "no Triton here"

    run(test)
