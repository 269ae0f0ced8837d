"""Keeps one deployment loaded and answering. Only an inference tells the truth, so that is what it asks.

                 probe answered                 probe failed, or the server is gone
load and probe ------------------> watch -----------------------------------+
     ^    |  model does not load: failed, wait, try again                    |
     |    |  no answer in time: a new server, once                           |
     +----+----------------------- unhealthy <------------------------------+
                                   (its requests fail, its stub is killed)
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, aclosing, contextmanager, suppress

from api.back.cluster.live import LiveDeployment
from api.back.cluster.messages import RETRY_SECONDS
from api.back.cluster.metrics import engine_counters
from api.back.cluster.repository import LiveRepository
from api.back.cluster.server import ModelServer
from api.back.cluster.supervisor import Supervisor
from api.back.settings import BackSettings
from api.back.store.records import DeploymentState
from api.errors import ApiError, DeadlineExceeded, Overloaded, ServerFault, Unavailable
from runtime.contract import MOST_URGENT, Kind, Operation

LOAD_SECONDS = 120.0  # for the first load, of a large model on a slow disk
COMPILE_SECONDS = 1800.0  # likewise where TensorRT compiles it
MIN_RELOAD_SECONDS = 5.0
LIVE_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 60.0
STABLE_SECONDS = 60.0  # a deployment that was well for as long owes nothing to its last death
QUICK_RELOADS = 3  # deaths in a row that are healed without delay
PROBE = "lmaas-probe"  # its name among the engine's callers: whoever floods a model makes it wait one turn
WORK_SECONDS = 1.5  # in which an engine at work reports a step: it does so each second

logger = logging.getLogger(__name__)


class Unresponsive(Exception):
    """The server, or the model in it, gives no answer: only a new process helps."""


class Keeper:
    def __init__(
        self,
        live: LiveDeployment,
        supervisor: Supervisor,
        repository: LiveRepository,
        settings: BackSettings,
        loading: asyncio.Lock,
    ) -> None:
        self._live = live
        self._supervisor = supervisor
        self._repository = repository
        self._settings = settings
        self._loading = loading  # of the model's name: Triton loads all its versions in one call
        self._load_seconds = COMPILE_SECONDS if settings.tensorrt else LOAD_SECONDS

    async def run(self) -> None:
        """Until cancelled."""
        for defects in itertools.count(1):
            try:
                await self._run()
            except Exception:
                logger.exception("%s: its supervision failed, and begins anew", self._live.name)
                self._live.become(DeploymentState.FAILED, "its supervision failed; the log says how")
            await asyncio.sleep(_backoff(defects))

    async def _run(self) -> None:
        live, refusals, deaths = self._live, 0, 0
        while True:
            server = await self._supervisor.running()
            try:
                await self._bring_up(server)
            except (ApiError, Unresponsive) as error:
                if not server.gone.is_set():
                    refusals += 1
                    await self._refused(server, error, refusals)
                continue
            live.become(DeploymentState.READY)
            refusals, began = 0, time.monotonic()
            reason = await self._watch(server)
            logger.warning("%s is unhealthy: %s", live.name, reason)
            live.become(DeploymentState.UNHEALTHY, reason)
            server.abort(Unavailable(f"{live.name} died and is coming back", RETRY_SECONDS), live.held)
            deaths = 0 if time.monotonic() - began > STABLE_SECONDS else deaths + 1
            if deaths > QUICK_RELOADS:
                await asyncio.sleep(_backoff(deaths - QUICK_RELOADS))

    async def _refused(self, server: ModelServer, error: Exception, refusals: int) -> None:
        """It does not load. A new server is tried, only once where Triton is well: the others pay for it."""
        triton_is_well = await server.live(LIVE_SECONDS)
        if not triton_is_well or (isinstance(error, Unresponsive) and refusals == 1):
            await self._supervisor.restart(server, f"{self._live.name}: {error}")
            return
        logger.error("%s does not load: %s", self._live.name, error)
        self._live.become(DeploymentState.FAILED, str(error))
        await asyncio.sleep(_backoff(refusals))

    async def _bring_up(self, server: ModelServer) -> None:
        """Load and probe. Raises Unresponsive, or ServerFault with the reason why it does not load."""
        live, began = self._live, time.monotonic()
        refused: ApiError | None = None
        async with self._loading:
            if live.held in server.loaded:
                if not await server.live(LIVE_SECONDS):
                    await self._supervisor.restart(server, f"{live.name}: Triton itself does not answer")
                    raise Unavailable("its server is gone")
                if self._supervisor.process is not None:
                    await asyncio.to_thread(self._supervisor.process.end_stub, *live.held)
                await asyncio.to_thread(self._repository.touch, *live.held)
            server.loaded.add(live.held)
            try:
                await server.load(live.record.model, self._load_seconds)
            except DeadlineExceeded:
                raise Unresponsive(f"it did not load within {self._load_seconds:g} s") from None
            except ServerFault as error:
                refused = error  # perhaps it means another version of this model: the probe tells
        try:
            await asyncio.wait_for(
                self._probe(server), max(MIN_RELOAD_SECONDS, self._settings.probe_timeout_seconds)
            )
        except asyncio.TimeoutError:
            raise Unresponsive("it loaded, and does not answer") from None
        except ApiError as error:
            raise refused or error from None
        self._load_seconds = max(MIN_RELOAD_SECONDS, 2 * (time.monotonic() - began))

    async def _watch(self, server: ModelServer) -> str:
        """Return when the deployment, or its server, is not well, with the reason."""
        while (reason := await self._watch_processes(server, await self._pids())) is None:
            pass
        return reason

    async def _pids(self) -> list[int]:
        process = self._supervisor.process
        return [] if process is None else await asyncio.to_thread(process.stub_pids, *self._live.held)

    async def _watch_processes(self, server: ModelServer, pids: list[int]) -> str | None:
        """As `_watch`, until one of these ends; None where another serves, as after a load in two steps."""
        with _deaths(pids) as died:
            while True:
                self._live.suspect.clear()
                await _first(
                    died, server.gone, self._live.suspect, timeout=self._settings.probe_interval_seconds
                )
                if server.gone.is_set():
                    return "its server is gone"
                if died.is_set():
                    return await self._check(server) if await self._pids() else "its process died"
                if (reason := await self._check(server)) is not None:
                    return reason

    async def _check(self, server: ModelServer) -> str | None:
        """What a probe finds wrong."""
        began, allowed = time.monotonic(), self._settings.probe_timeout_seconds
        try:
            await asyncio.wait_for(self._probe(server), allowed)
        except (asyncio.TimeoutError, Overloaded):
            well = self._live.good_since(began) or await self._works()
            if not well and not self._live.good_since(began):
                return f"no answer to a probe within {allowed:g} s"
        except ApiError as error:
            return error.detail
        return None

    async def _works(self) -> bool:
        """Whether the engine's own counters move: while it is full it answers no probe, yet it is well."""
        port = self._supervisor.ports.metrics
        before = await engine_counters(port, *self._live.held)
        if not before:
            return False
        await asyncio.sleep(WORK_SECONDS)
        after = await engine_counters(port, *self._live.held)
        return any(after.get(name, value) > value for name, value in before.items())

    async def _probe(self, server: ModelServer) -> None:
        """The smallest real inference. Raises ApiError."""
        live, prompt = self._live, self._live.probe
        if live.target.kind is not Kind.LM:
            pairs = None if prompt.text_pair is None else [prompt.text_pair]
            await server.classify(live.held, [prompt.text], pairs)
        else:
            answer = server.generate(
                live.held,
                text=prompt.text,
                parameters={"max_tokens": 1, "temperature": 0.0, "priority": MOST_URGENT, "caller": PROBE},
                operation=Operation.GENERATE,
                stream=False,
            )
            async with aclosing(answer):
                async for _ in answer:
                    pass
        live.prove()


def _backoff(times: int) -> float:
    """Seconds before another try: 1, 2, 4 ..."""
    return min(MAX_BACKOFF_SECONDS, 2.0 ** (times - 1))


@contextmanager
def _deaths(pids: list[int]) -> Iterator[asyncio.Event]:
    """An event that comes with the end of any of these processes, which the kernel tells at once."""
    loop, died = asyncio.get_running_loop(), asyncio.Event()
    with ExitStack() as stack:
        for pid in pids:
            with suppress(OSError):  # gone already, or a kernel without pidfd: the probe finds out
                descriptor = os.pidfd_open(pid)
                stack.callback(os.close, descriptor)
                loop.add_reader(descriptor, died.set)
                stack.callback(loop.remove_reader, descriptor)
        yield died


async def _first(*events: asyncio.Event, timeout: float) -> None:
    """Wait for the first of several events, at most `timeout` seconds."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
