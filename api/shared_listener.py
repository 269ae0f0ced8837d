"""One listening socket from which several façades accept, each about as many connections as the others.

The kernel wakes all of them for a connection, and the fastest would take a whole burst. So each writes into
memory that they share how many connections it has, and one that has more than another lets it go first. One
that is not ready lets all others go first that are.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import select
import socket
from collections.abc import Callable

AHEAD = 2  # connections that one may have more than another without a wait
YIELD_SECONDS = 0.002  # that another one has to go first
READY_SECONDS = 5.0  # likewise, where that one is ready and this one is not
UNREADY = 2**30  # added to the connections of one that is not ready
PAUSE_SECONDS = 1.0  # after an error, as that of too many open files
AWAY = 2**31 - 1  # connections of one that takes none
WIDTH = 4  # bytes of a count

log = logging.getLogger(__name__)


class Counts:
    """How many connections each façade has, with UNREADY or AWAY. One process at a time writes a count."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._counts = memoryview(mmap.mmap(descriptor, 0)).cast("i")

    @classmethod
    def create(cls, facades: int) -> Counts:
        """All of them are away."""
        descriptor = os.memfd_create("lmaas-connections")
        os.ftruncate(descriptor, WIDTH * facades)
        counts = cls(descriptor)
        for index in range(facades):
            counts.set(index, AWAY)
        return counts

    def set(self, index: int, count: int) -> None:
        self._counts[index] = count

    def least(self, without: int) -> int:
        """Of the others."""
        others = (count for index, count in enumerate(self._counts) if index != without)
        return min(others, default=AWAY)


class SharedListener:
    """The part of one façade, `index`. Belongs to one event loop."""

    def __init__(self, listener: socket.socket, counts: Counts, index: int) -> None:
        self._listener = listener
        self._counts = counts
        self._index = index
        self._opening: set[asyncio.Task[None]] = set()  # accepted, and not among the connections yet
        self._poll = select.poll()
        self._waits_since: float | None = None  # a connection, for another façade to take it

    def start(self, connect: Callable[[], asyncio.Protocol], count: Callable[[], int]) -> None:
        """Accept from now on. `count` says how many connections there are, and UNREADY more if it is."""
        self._loop = asyncio.get_running_loop()
        self._connect, self._count = connect, count
        self._listener.setblocking(False)
        self._poll.register(self._listener, select.POLLIN)
        self.publish()
        self._loop.add_reader(self._listener, self._accept)

    def publish(self) -> int:
        """Say how many connections there are; returns it."""
        count = self._count() + len(self._opening)
        self._counts.set(self._index, count)
        return count

    def stop(self) -> None:
        """Accept no more. The socket stays open in other processes."""
        if self._listener.fileno() != -1:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._counts.set(self._index, AWAY)

    def _accept(self) -> None:
        if self._must_wait():
            self._pause(YIELD_SECONDS)
            return
        self._waits_since = None
        try:
            accepted, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):  # another façade has it
            return
        except OSError as error:
            log.error("no connection can be accepted for %g s: %s", PAUSE_SECONDS, error)
            self._pause(PAUSE_SECONDS)
            return
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._open(accepted))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    def _must_wait(self) -> bool:
        mine, least = self.publish(), self._counts.least(self._index)
        if mine <= least + AHEAD:
            return False
        now = self._loop.time()
        if self._waits_since is None:
            self._waits_since = now
        patience = READY_SECONDS if mine >= UNREADY > least else YIELD_SECONDS
        return now - self._waits_since < patience

    async def _open(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._connect, accepted)
        except OSError as error:  # the caller left
            log.debug("a connection was not opened: %s", error)
            accepted.close()

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        if self._listener.fileno() == -1:
            return
        if not self._poll.poll(0):  # another one took what was there
            self._waits_since = None
        self._loop.add_reader(self._listener, self._accept)
