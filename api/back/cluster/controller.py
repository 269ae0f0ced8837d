"""Keeps one replica loaded and answering, through its server's driver and client alone.

                 probe answered                 probe failed, or the server is gone
load and probe ------------------> watch -----------------------------------+
     ^    |  model does not load: failed, wait, try again with a longer timeout |
     |    |  Triton itself does not answer: restart it, within a limit       |
     +----+----------------------- unhealthy <------------------------------+
                                   (its requests fail, its process is killed)
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time

from api.back.cluster.backoff import STABLE_SECONDS, backoff_seconds
from api.back.cluster.loading import ModelLoader, TritonUnresponsive, Unresponsive
from api.back.cluster.messages import RETRY_SECONDS
from api.back.cluster.metrics import engine_fallback
from api.back.cluster.probe import LoadProgress, Prober
from api.back.cluster.replica import Replica
from api.back.cluster.triton_client import ENDING_SECONDS, TritonClient
from api.back.settings import BackSettings
from api.back.store.records import DeploymentState
from api.errors import ApiError, Unavailable

MAX_BACKOFF_SECONDS = 60.0
QUICK_RELOADS = 3  # deaths in a row that are healed without delay
UNLOAD_SECONDS = 10.0
STUB_SECONDS = 5.0  # for a model's process to end by itself after an unload
CANCEL_SECONDS = 1.0  # after which a task is cancelled once more

logger = logging.getLogger(__name__)


class ReplicaController:
    def __init__(
        self, replica: Replica, settings: BackSettings, loading: asyncio.Lock, loads: LoadProgress
    ) -> None:
        """`loading` is held while the model's files change or load on this server, for all its versions."""
        self.replica = replica
        self._settings = settings
        self._loading = loading
        self._server = replica.server
        self._driver = replica.server.driver
        self._prober = Prober(replica, settings, loads)
        self._loader = ModelLoader(replica, settings, self._prober, loading)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self.run())

    async def close(self) -> None:
        """Leave the replica as it is."""
        if self._task is not None:
            await end(self._task)

    async def publish(self) -> None:
        """Put the version's files into the server's repository. Raises StoreUnavailable, OSError."""
        replica = self.replica
        async with self._loading:
            await self._driver.repository.lay_out(replica.version_record, replica.manifest, replica.variant)

    async def remove(self) -> None:
        """Drain and unload the replica, and remove its files. It logs what it cannot remove."""
        self.replica.become(DeploymentState.UNLOADING)
        await self.close()
        try:
            if self._server.up:
                await self._server.client.drain(self.replica.version, self._settings.unload_wait_seconds)
            await self._unload()
        except Exception:
            logger.exception("%s left something behind on %s", self.replica.name, self._server.name)

    async def _unload(self) -> None:
        """Remove the files and unload the version; a server that is down finds no files when it starts."""
        model, number = self.replica.version
        async with self._loading:
            others = await asyncio.to_thread(self._driver.repository.remove, model, number)
            try:
                if others:
                    await self._server.client.load(model, UNLOAD_SECONDS)
                else:
                    await self._server.client.unload(model, UNLOAD_SECONDS)
            except ApiError as error:
                logger.warning("%s could not be unloaded: %s", self.replica.name, error)
            await self._driver.await_model_end(self.replica.version, STUB_SECONDS)

    async def run(self) -> None:
        """Until cancelled."""
        for defects in itertools.count(1):
            try:
                await self._run()
            except Exception:
                logger.exception("%s: its controller failed, and begins again", self.replica.name)
                self.replica.become(DeploymentState.FAILED, "its supervision failed; the log says how")
            await asyncio.sleep(backoff_seconds(defects, MAX_BACKOFF_SECONDS))

    async def _run(self) -> None:
        replica, failures, deaths = self.replica, 0, 0
        while True:
            client = await self._server.running()
            try:
                await self._loader.bring_up(client)
            except (ApiError, Unresponsive) as error:
                if not client.gone.is_set():
                    failures += 1
                    await self._load_failed(client, error, failures)
                continue
            replica.note = await self._note()
            replica.trust()  # its last step was a good probe
            replica.become(DeploymentState.READY)
            failures, began = 0, time.monotonic()
            reason = await self._watch(client)
            logger.warning("%s on %s is unhealthy: %s", replica.name, self._server.name, reason)
            replica.become(DeploymentState.UNHEALTHY, reason)
            if self._driver.shared and await client.is_ending():
                await client.idle(ENDING_SECONDS, replica.version)
            client.abort(
                Unavailable(f"{replica.name} died and is coming back", RETRY_SECONDS), replica.version
            )
            deaths = 0 if time.monotonic() - began > STABLE_SECONDS else deaths + 1
            if deaths > QUICK_RELOADS:
                await asyncio.sleep(backoff_seconds(deaths - QUICK_RELOADS, MAX_BACKOFF_SECONDS))

    async def _note(self) -> str | None:
        if not self._settings.engine.plans:
            return None
        reason = await engine_fallback(self._driver.endpoints.metrics, *self.replica.version)
        return None if reason is None else f"tensorrt: fell back: {reason}"

    async def _load_failed(self, client: TritonClient, error: Exception, failures: int) -> None:
        """Restart the server where Triton itself hangs, and only then: that interrupts its other models."""
        self._loader.limit.failed()
        name = self.replica.name
        hangs = isinstance(error, TritonUnresponsive) or not await self._loader.triton_answers(client)
        if hangs and await self._server.restart(client, f"{name}: {error}"):
            return
        logger.error("%s does not load on %s: %s", name, self._server.name, error)
        if not isinstance(error, Unavailable) or failures > QUICK_RELOADS:
            self.replica.become(DeploymentState.FAILED, str(error))
        await asyncio.sleep(backoff_seconds(failures, MAX_BACKOFF_SECONDS))

    async def _watch(self, client: TritonClient) -> str:
        """Return when the replica, or its server, is not well, with the reason."""
        while (reason := await self._watch_processes(client)) is None:
            pass
        return reason

    async def _watch_processes(self, client: TritonClient) -> str | None:
        """As `_watch`, until a process ends; None where another one serves, as after a load in two steps."""
        version, replica = self.replica.version, self.replica
        async with self._driver.watch_model(version) as ended:
            while True:
                replica.trust()
                await first_of(
                    ended, client.gone, replica.suspect, timeout=self._settings.probe_interval_seconds
                )
                if client.gone.is_set():
                    return "its server is gone"
                if ended.is_set():
                    if await self._driver.model_runs(version):
                        return await self._prober.check(client)
                    return "its process died"
                if (reason := await self._prober.check(client)) is not None:
                    return reason


async def first_of(*events: asyncio.Event, timeout: float) -> None:
    """Wait for the first of several events, at most `timeout` seconds."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


async def end(task: asyncio.Task[None]) -> None:
    """Cancel it until it ends: before Python 3.12 `wait_for` may lose a cancellation to a result."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_SECONDS)
