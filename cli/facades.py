"""`lmaas up --facades N`: several façades behind one port, each a process with model servers of its own.

This process opens the sockets, and serves nothing itself:

    lmaas up --facades 2 -- guard -- façade (HOME/facade-1) -- guard -- Triton
                         `- guard -- façade (HOME/facade-2) -- guard -- Triton

All façades accept connections from the one public socket: what one that died had not accepted yet goes to
another. Each has an address for itself as well, on loopback: PORT + 1, PORT + 2 ... A guard ends
its façade when this process dies.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from api.back.cluster.backoff import RESTART_BACKOFF_SECONDS, STABLE_SECONDS, backoff_seconds
from api.back.cluster.cleanup import kill_group
from api.back.cluster.preflight import LAST_PORT
from api.back.guard import guarded
from api.back.home import OTHERS, only_user
from api.config import Settings
from api.errors import ServerFault
from api.logs import configure_logging
from api.shared_listener import AWAY, Counts
from cli.member import Member, environment, prepare_home
from cli.show import plain
from cli.start_checks import AddressError, Checked, check, listen, say, warn
from cli.start_display import Serving, StartDisplay

LMAAS = Path(__file__).resolve().parents[1] / "lmaas.py"
LOOPBACK = "127.0.0.1"
BACKLOG = 2048
MAX_LINE = 1024 * 1024  # bytes of one report of a façade
SIGNALLED = 128  # added by the guard to a signal's number

log = logging.getLogger("lmaas")


def serve_several(settings: Settings) -> int:
    """Serve until Ctrl-C or SIGTERM; a second one does not wait for the drain.

    Returns 0 once every façade has drained, 1 where the machine or a façade does not let it start.
    """
    os.umask(OTHERS)
    configure_logging(settings)
    checked = check(settings, _listen)
    if checked is None:
        return 1
    warn(settings)
    try:
        with only_user(settings.back):
            for number in range(1, settings.facades + 1):
                prepare_home(settings.home, number)
            return asyncio.run(Facades(checked).run())
    except (ServerFault, OSError) as error:
        say(settings, str(error))
        return 1


def _listen(settings: Settings) -> list[socket.socket]:
    """The public socket, and one for each façade alone. Raises AddressError."""
    last = settings.port + settings.facades
    if settings.port and last > LAST_PORT:
        raise AddressError(
            f"facade-{settings.facades} would have port {last} for itself, but {LAST_PORT} is the last one:"
            f" choose a lower one for all (lmaas up --port {LAST_PORT - settings.facades})"
        )
    with ExitStack() as opened:
        listeners = [opened.enter_context(listen(settings))]
        for number in range(1, settings.facades + 1):
            address = {"host": LOOPBACK, "port": settings.port and settings.port + number}
            listeners.append(opened.enter_context(listen(settings.model_copy(update=address))))
        for listener in listeners:
            listener.listen(BACKLOG)
        opened.pop_all()
    return listeners


class Facade:
    """One façade, which may have several processes in turn."""

    def __init__(self, member: Member, settings: Settings, counts: Counts) -> None:
        self.name = member.name
        self.serving: Serving | None = None  # as it said when it was ready for the last time
        self.ready = False  # its present process was ready
        self._member = member
        self._environment = environment(settings, member.number)
        self._counts = counts
        self._guard: Process | None = None
        self._ending = False

    async def run(self, on_line: Callable[[bytes], None]) -> int:
        """Start it and wait for its end; returns its status, 128 and the number for a signal. Raises OSError.

        `on_line` gets each line that it prints.
        """
        self.ready = False
        reader, writer = os.pipe()
        reading = asyncio.create_task(_read(reader, on_line))
        try:
            guard = self._guard = await self._start(writer)
            if self._ending:
                guard.terminate()
            try:
                return await guard.wait()
            finally:
                self._guard = None
                await asyncio.to_thread(kill_group, guard.pid)  # somebody may have killed the guard alone
                self._counts.set(self._member.number - 1, AWAY)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    def end(self) -> None:
        """Let it drain and end; a second call ends it at once."""
        if self._guard is not None:
            with suppress(ProcessLookupError):
                if self._ending:
                    os.killpg(self._guard.pid, signal.SIGKILL)
                else:
                    self._guard.terminate()
        self._ending = True

    async def _start(self, output: int) -> Process:
        """Closes `output`, a descriptor."""
        member = self._member
        try:
            return await asyncio.create_subprocess_exec(
                *guarded([sys.executable, str(LMAAS), "up", f"--member={member.argument}"]),
                stdin=PIPE,
                stdout=output,
                env=self._environment,
                pass_fds=(member.public, member.own, member.counts),
                start_new_session=True,
            )
        finally:
            os.close(output)


async def _read(descriptor: int, on_line: Callable[[bytes], None]) -> None:
    """Each line, until the end; closes the pipe."""
    lines = asyncio.StreamReader(limit=MAX_LINE)
    protocol = asyncio.StreamReaderProtocol(lines)
    pipe = os.fdopen(descriptor, "rb")
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, pipe)
    try:
        async for line in lines:
            on_line(line)
    finally:
        transport.close()


class Facades:
    """Keeps them all running until the stop."""

    def __init__(self, checked: Checked) -> None:
        public, *own = self._listeners = checked.listeners
        counts = Counts.create(len(own))
        members = [
            Member(number, public.fileno(), listener.fileno(), counts.descriptor)
            for number, listener in enumerate(own, 1)
        ]
        self._facades = [Facade(member, checked.settings, counts) for member in members]
        self._display = StartDisplay.of(checked)
        self._announced = False
        self._imported = asyncio.Event()  # by the first façade: bundled models, at the first start
        self._stopping = asyncio.Event()

    async def run(self) -> int:
        """Returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        return int(any(await asyncio.gather(*map(self._keep, self._facades))))

    async def _keep(self, facade: Facade) -> int:
        """Run it until the stop, and again after each death: at once, after 1 s, 2 s, 4 s ...

        Returns the status with which it ended at the stop; 0 where it was not ready and had nothing to drain.
        One that ends by itself before it was ready for the first time lacks something that another start
        would lack as well: then all of them stop.
        """
        if facade is not self._facades[0]:
            await self._imported.wait()
        deaths = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                status = await facade.run(partial(self._take, facade))
            except OSError as error:  # no memory, processes or descriptors now
                log.error("%s does not start: %s", facade.name, error)
                status = 1
            if self._stopping.is_set():
                return status if facade.ready else 0
            if facade.serving is None and 0 <= status < SIGNALLED:
                self._stop()
                return status or 1
            deaths = 1 if time.monotonic() - began > STABLE_SECONDS else deaths + 1
            pause = backoff_seconds(deaths - 1, RESTART_BACKOFF_SECONDS)
            log.error("%s ended with status %d; it starts again in %g s", facade.name, status, pause)
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
        return 0

    def _take(self, facade: Facade, line: bytes) -> None:
        """What `start_display.report` printed in a façade; a library may have printed something else."""
        try:
            stage, message, serving = (json.loads(line)[name] for name in ("stage", "message", "serving"))
            found = None if serving is None else Serving(**serving)
        except (ValueError, TypeError, KeyError):
            log.warning("%s: %s", facade.name, plain(line.decode(errors="replace").rstrip()))
            return
        if facade is self._facades[0] and stage in ("load", "ready"):
            self._imported.set()
        if found is not None:
            facade.serving, facade.ready = found, True
        self._display.show(stage, f"{facade.name}: {message}", found and self._all_serving(found))

    def _all_serving(self, latest: Serving) -> Serving | None:
        """For the banner, once: when the last of them is ready."""
        everything = [facade.serving for facade in self._facades]
        if self._announced or None in everything:
            return None
        self._announced = True
        not_imported = [message for each in everything if each for message in each.not_imported]
        return Serving(latest.deployments, not_imported, latest.kernels)

    def _stop(self) -> None:
        """Drain all of them; a second call ends them at once."""
        self._stopping.set()
        self._imported.set()
        for listener in self._listeners:
            listener.close()
        for facade in self._facades:
            facade.end()
