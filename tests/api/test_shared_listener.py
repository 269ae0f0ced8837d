"""Façades that accept from one socket."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from functools import partial

from api.shared_listener import AHEAD, AWAY, UNREADY, Counts, SharedListener
from tests.api.asgi import until
from tests.api.conftest import Run


class Greeter(asyncio.Protocol):
    """Says its name and closes."""

    def __init__(self, name: str) -> None:
        self._name = name

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        transport.write(self._name.encode())
        transport.close()


def greeted(connections: dict[str, int], count: int, run: Run) -> Counter[str]:
    """Who accepted how many of `count` connections; `connections` are what each one says that it has."""
    found: Counter[str] = Counter()

    async def test() -> None:
        counts = Counts.create(len(connections))
        with socket.create_server(("127.0.0.1", 0), backlog=count) as listener:
            clients = [socket.create_connection(listener.getsockname()) for _ in range(count)]
            shared = [SharedListener(listener.dup(), counts, index) for index in range(len(connections))]
            for each, (name, number) in zip(shared, connections.items(), strict=True):
                each.start(partial(Greeter, name), partial(int, number))
            for client in clients:
                client.setblocking(False)
                found[(await asyncio.get_running_loop().sock_recv(client, 10)).decode()] += 1
                client.close()
            for each in shared:
                each.stop()
        assert counts.least(-1) == AWAY

    run(test)
    return found


def test_a_burst_is_shared_out(run: Run) -> None:
    found = greeted({"one": 5, "two": 5 + AHEAD}, 30, run)
    assert min(found["one"], found["two"]) >= 10


def test_one_that_has_more_lets_the_other_go_first(run: Run) -> None:
    found = greeted({"busy": 100, "idle": 0}, 30, run)
    assert found["idle"] >= 20


def test_where_none_is_ready_both_accept(run: Run) -> None:
    found = greeted({"one": UNREADY, "two": UNREADY}, 30, run)
    assert min(found["one"], found["two"]) >= 10


def test_one_that_is_not_ready_waits_long_for_one_that_is(run: Run) -> None:
    assert greeted({"unready": UNREADY, "ready": 3}, 30, run) == {"ready": 30}


def test_one_that_has_more_accepts_what_no_other_does(run: Run) -> None:
    async def test() -> None:
        counts = Counts.create(2)
        counts.set(1, 0)  # it hangs
        with socket.create_server(("127.0.0.1", 0)) as listener:
            shared = SharedListener(listener.dup(), counts, 0)
            shared.start(lambda: Greeter("busy"), lambda: 100)
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            assert await reader.read() == b"busy"
            writer.close()
            shared.stop()

    run(test)


def test_counts_are_seen_by_all(run: Run) -> None:
    async def test() -> None:
        counts = Counts.create(3)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            shared = SharedListener(listener.dup(), Counts(counts.descriptor), 2)
            open_now = [7]
            shared.start(lambda: Greeter(""), lambda: open_now[0])
            await until(lambda: counts.least(0) == 7)
            open_now[0] = 3
            shared.publish()
            assert counts.least(0) == 3
            shared.stop()
            assert counts.least(0) == AWAY

    run(test)
