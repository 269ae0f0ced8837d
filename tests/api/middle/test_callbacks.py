"""Callbacks, to a real HTTP server: signed, tried again, bounded, and not into one's own network."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from api.back.store.callbacks import CallbackStore
from api.back.store.database import Database
from api.back.store.records import TaskError, TaskRecord, TaskState, now
from api.back.store.task_writer import TaskWriter
from api.caller import Caller
from api.errors import InvalidInput
from api.middle import outgoing
from api.middle.callbacks import MAX_ATTEMPTS, Callbacks
from api.middle.outgoing import NotAllowed, check_url, is_public, post
from bench.chaos.services import Postgres
from tests.api.asgi import until
from tests.api.conftest import Run

KEY = b"sixteen or more bytes"
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"


class Receiver:
    """Answers with one status after another, the last one for ever; 0: with nothing."""

    def __init__(self) -> None:
        self.statuses = [204]
        self.requests: list[tuple[str, dict[str, str], bytes]] = []  # path, headers, body
        self.url = ""

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Receiver]:
        receiver = cls()
        server = await asyncio.start_server(receiver._serve, "127.0.0.1", 0)
        receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook?a=b"
        yield receiver
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in head[1:] if line)
        headers = {name.lower(): value for name, value in pairs}
        body = await reader.readexactly(int(headers["content-length"]))
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        self.requests.append((head[0].split()[1], headers, body))
        if status:
            writer.write(f"HTTP/1.1 {status} x\r\nLocation: {self.url}\r\nContent-Length: 0\r\n\r\n".encode())
        else:
            await reader.read()
        writer.close()


class Sender:
    """A façade's callbacks over a database; `later` is how far its clock is ahead."""

    def __init__(self, database: Database, writer: TaskWriter) -> None:
        self.later = timedelta()
        self.writer = writer
        self.outcomes: list[str] = []
        self.store = CallbackStore(database, self._clock)

    def _clock(self) -> datetime:
        return now() + self.later

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Sender]:
        async with Database.open(url) as database, TaskWriter.open(database) as writer:
            yield cls(database, writer)

    @asynccontextmanager
    async def running(self, *, private: bool = True) -> AsyncIterator[None]:
        callbacks = Callbacks(self.store, SECRET, private=private, count=self.outcomes.append)
        callbacks.start()
        yield
        await callbacks.stop()

    async def add(self, url: str, state: TaskState = TaskState.DONE) -> TaskRecord:
        task = TaskRecord(
            "t", "generate", state, True, Caller("192.0.2.1"), None, {"prompt": "secret"}, {"text": "secret"},
            finished=now() if state.finished else None, callback_url=url, callback_due=now(),
        )  # fmt: skip
        await self.writer.add(task)
        return task


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/lmaas.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.create_database()


def test_a_message_is_signed_and_sent_once_when_the_task_is_over(url: str, run: Run) -> None:
    async def test() -> None:
        async with Receiver.open() as receiver, Sender.open(url) as sender, sender.running():
            task = await sender.add(receiver.url, TaskState.RUNNING)
            assert await sender.store.claim(10, timedelta(seconds=1)) == []
            error = TaskError("deadline", "secret")
            ended = dataclasses.replace(task, state=TaskState.EXPIRED, error=error, finished=now())
            await sender.writer.add(ended)
        async with Receiver.open() as receiver, Sender.open(url) as sender:
            async with sender.store._database.write() as connection:
                await connection.exec_driver_sql(f"UPDATE tasks SET callback_url = '{receiver.url}'")
            async with sender.running():  # after a restart
                await until(lambda: receiver.requests)
                path, headers, body = receiver.requests[0]
                assert path == "/hook?a=b"
                signed = b"t." + headers["webhook-timestamp"].encode() + b"." + body
                expected = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
                assert headers["webhook-signature"] == f"v1,{expected}"
                assert headers["webhook-id"] == "t"
                assert abs(int(headers["webhook-timestamp"]) - now().timestamp()) < 60
                message = json.loads(body)
                assert message["type"] == "task.expired"
                assert (message["data"]["id"], message["data"]["error"]) == ("t", "deadline")
                assert b"secret" not in body
                await settled(sender)
            sender.later = timedelta(days=1)
            assert await sender.store.claim(10, timedelta(seconds=1)) == []
            assert len(receiver.requests) == 1
            assert sender.outcomes == ["delivered"]

    run(test)


async def settled(sender: Sender) -> None:
    """Wait until no callback is due, even in the far future."""
    async with sender.store._database.read() as connection:
        query = "SELECT count(*) FROM tasks WHERE callback_due IS NOT NULL"
        while (await connection.exec_driver_sql(query)).scalar_one():
            await connection.rollback()
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("statuses", "tries"), [([500, 302, 0, 200], 4), ([410], 1), ([503], MAX_ATTEMPTS)])
def test_a_failure_is_tried_again_until_one_succeeds(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, statuses: list[int], tries: int
) -> None:
    """A redirection is a failure, and so is silence."""
    monkeypatch.setattr(outgoing, "SECONDS", 0.5)
    monkeypatch.setattr("api.middle.callbacks.POLL_SECONDS", 0.01)

    async def test() -> None:
        async with Receiver.open() as receiver, Sender.open(f"sqlite+aiosqlite:///{tmp_path}/x.db") as sender:
            receiver.statuses = statuses
            await sender.add(receiver.url)
            async with sender.running():
                await until(lambda: receiver.requests)
                sender.later = timedelta(days=1)  # all waits are over
                await settled(sender)
            assert len(receiver.requests) == tries
            last = "delivered" if statuses[-1] == 200 else "given-up"
            assert sender.outcomes == ["failed"] * (tries - 1) + [last]
            assert {path for path, _, _ in receiver.requests} == {"/hook?a=b"}

    run(test)


def test_a_private_address_is_not_called(tmp_path: Path, run: Run) -> None:
    async def test() -> None:
        async with Receiver.open() as receiver:
            name = receiver.url.replace("127.0.0.1", "localhost")
            with pytest.raises(NotAllowed, match="localhost has no public address"):
                await post(name, {}, b"", private=False)
            with pytest.raises(NotAllowed):
                await post(receiver.url, {}, b"", private=False)
            assert receiver.requests == []
            assert await post(receiver.url, {}, b"", private=True) == 204

    run(test)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1",
        "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(InvalidInput, match="callback_url"):
        check_url("callback_url", f"http://{host}/x", private=False)
    assert is_public("93.184.216.34")
    assert is_public("2606:2800:220:1:248:1893:25c8:1946")


@pytest.mark.parametrize(
    "url",
    ["", "x", "ftp://a/b", "http://", "http:///a", "https://user:pw@a/b", "http://a/b#c", "http://a b/",
     "http://a:x/", "http://[1/", "http://é/", "http://a/\r\nb"],
)  # fmt: skip
def test_what_is_no_address_to_call(url: str) -> None:
    with pytest.raises(InvalidInput):
        check_url("callback_url", url, private=True)


def test_without_a_secret_there_are_no_callbacks() -> None:
    with pytest.raises(InvalidInput, match="LMAAS_CALLBACK_SECRET"):
        Callbacks(None, None, private=True).check("https://example.com/")  # type: ignore[arg-type]
