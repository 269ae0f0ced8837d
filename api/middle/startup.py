"""Bring-up and shutdown of the appliance behind the API, which answers from the first moment.

starting --> serving --> stopping
    \\--> failed
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from enum import Enum

from api.back.backend import Backend
from api.back.cluster.records import Readiness
from api.back.settings import BackSettings
from api.config import Settings
from api.errors import ApiError, Unavailable
from api.middle.batch_lines import LineFormat
from api.middle.bundled import Progress, Report, import_bundled
from api.middle.keys import KeyRing
from api.middle.metrics import Metrics
from api.middle.service import Service

RETRY_SECONDS = 2.0  # Retry-After during the bring-up
READY_POLL_SECONDS = 0.05

OpenBackend = Callable[[BackSettings], AbstractAsyncContextManager[Backend]]

log = logging.getLogger(__name__)


class Phase(str, Enum):
    STARTING = "starting"
    SERVING = "serving"
    STOPPING = "stopping"
    FAILED = "failed"


class Appliance:
    """Owns the back layer from `start` to `stop`. One task opens and closes it, as context managers need."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        keys: KeyRing,
        on_progress: Report,
        open_backend: OpenBackend,
        lines: LineFormat,
    ) -> None:
        self.keys = keys
        self.phase = Phase.STARTING
        self.failure: str | None = None  # one line, in phase FAILED
        self.not_imported: list[str] = []  # bundled models, each with the reason
        self._settings = settings
        self._metrics = metrics
        self._on_progress = on_progress
        self._open_backend = open_backend
        self._lines = lines  # of batches
        self._service: Service | None = None
        self._step = "starting"
        self._owner: asyncio.Task[None] | None = None
        self._draining: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()

    @property
    def service(self) -> Service:
        """Raises Unavailable unless the appliance is serving."""
        if self.phase is not Phase.SERVING or self._service is None:
            raise Unavailable(f"the server is {self._state()}", RETRY_SECONDS)
        return self._service

    def readiness(self) -> Readiness:
        """Ready while serving and every deployment answered a probe lately."""
        if self.phase is not Phase.SERVING or self._service is None:
            return Readiness(False, [self._state()], {})
        return self._service.readiness()

    def warnings(self) -> list[str]:
        """What does not work, although the server is ready for the rest."""
        if self.phase is not Phase.SERVING or self._service is None:
            return []
        warnings = [f"a bundled model was not imported: {message}" for message in self.not_imported]
        warnings += self._service.readiness().warnings
        if (failure := self._service.tasks.queue.failure) is not None:
            warnings.append(
                f"no task can be recorded, so that asynchronous ones are refused: {failure.detail}"
            )
        return warnings

    def start(self) -> None:
        self._owner = asyncio.create_task(self._own())

    async def drain(self) -> None:
        """Take no more tasks, give those that run their time, end the rest; a second call waits as well."""
        if self.phase is Phase.SERVING and self._service is not None:
            self.phase = Phase.STOPPING
            self._report(Progress("stopping", "ending running tasks"))
            self._draining = asyncio.create_task(self._service.drain(self._settings.drain_seconds))
        if self._draining is not None:
            await asyncio.shield(self._draining)

    async def stop(self) -> None:
        """Drain, and close everything that was opened."""
        await self.drain()
        if self._owner is None:
            return
        self._stop.set()
        if self.phase is Phase.STARTING:
            self._owner.cancel()
        await asyncio.gather(self._owner, return_exceptions=True)

    async def _own(self) -> None:
        try:
            self._report(Progress("start", "starting the model server"))
            async with self._open_backend(self._settings.back) as backend:
                self.keys.attach(backend.keys)
                try:
                    await self._bring_up(backend)
                    self.phase = Phase.SERVING
                    await self._announce(self.service)
                    await self._stop.wait()
                finally:
                    self.keys.attach(None)
        except Exception as error:
            # Whatever it is, the appliance cannot serve; the process shows it and decides.
            if not isinstance(error, (ApiError, OSError)):  # these name the file, or what to do
                log.exception("the appliance stopped")
            self.failure = str(error) or type(error).__name__
            self.phase = Phase.FAILED
            self._report(Progress("failed", self.failure))

    async def _bring_up(self, backend: Backend) -> None:
        service = Service.build(backend, self._settings, self._metrics, self._lines)
        settings = self._settings
        try:
            await service.leases.start()
            await service.remove_leftovers()
            service.dispatcher.start()
            service.callbacks.start()
            await import_bundled(service, settings.models, settings.home, settings.back.staging, self._report)
            service.batches.start()
        except BaseException:
            await service.drain(0)
            raise
        self._service = service

    async def _announce(self, service: Service) -> None:
        """Report `ready` once every deployment has answered a probe, and until then what is waited for."""
        said: list[str] = []
        while not self._stop.is_set() and not (now := service.readiness()).ready:
            if now.reasons != said:
                said = now.reasons
                self._report(Progress("load", "; ".join(said)))
            await asyncio.sleep(READY_POLL_SECONDS)
        if not self._stop.is_set():
            self._report(Progress("ready", "serving"))

    def _report(self, progress: Progress) -> None:
        self._step = progress.message
        if progress.stage == "failed" and self.phase is Phase.STARTING:
            self.not_imported.append(progress.message)
        log.info("%s", progress.message)
        self._on_progress(progress)

    def _state(self) -> str:
        if self.phase is Phase.STARTING:
            return f"starting: {self._step}"
        return f"failed: {self.failure}" if self.phase is Phase.FAILED else "stopping"
