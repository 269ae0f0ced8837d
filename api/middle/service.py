"""The middle layer as one thing: what the routes call once the back layer is open."""

from __future__ import annotations

from dataclasses import dataclass

from api.back.backend import Backend
from api.config import Settings
from api.errors import Cancelled
from api.middle.dispatcher import Dispatcher
from api.middle.handlers import MODEL_TASKS
from api.middle.handlers.base import Lane
from api.middle.handlers.convert import ConvertHandler
from api.middle.job import Job
from api.middle.metrics import Metrics
from api.middle.router import Router
from api.middle.schemas.base import TaskParameters
from api.middle.tasks import TaskManager


@dataclass(frozen=True, slots=True)
class Service:
    backend: Backend
    tasks: TaskManager
    dispatcher: Dispatcher
    precision: str  # of a deployment where none is asked for

    @classmethod
    def build(cls, backend: Backend, settings: Settings, metrics: Metrics) -> Service:
        model_handlers = [make(backend.cluster, metrics, settings.fan_out) for make in MODEL_TASKS]
        router = Router([*model_handlers, ConvertHandler(backend, settings.precision)])
        tasks = TaskManager(
            backend.tasks,
            router,
            metrics,
            max_in_flight=settings.max_in_flight,
            max_queued=settings.max_queued_tasks,
        )
        workers = {Lane.MODELS: settings.task_workers, Lane.CONVERSIONS: 1}
        return cls(backend, tasks, Dispatcher(tasks, router, workers), settings.precision)

    def submit(self, task_type: str, parameters: TaskParameters, caller: str, account: str = "") -> Job:
        """Start a synchronous task. Raises Overloaded, Unavailable."""
        job = self.tasks.admit(task_type, parameters, caller, account)
        self.dispatcher.run(job)
        return job

    async def drain(self, seconds: float) -> None:
        """Refuse new tasks, give the running ones `seconds`, then end them."""
        await self.dispatcher.stop()
        await self.tasks.drain(seconds)

    async def delete_model(self, name: str) -> None:
        """Undeploy and delete a model with all its versions. Raises NotFound."""
        await self.backend.models.get(name)
        await self._release(name, None)
        await self.backend.models.delete(name)

    async def delete_version(self, name: str, version: int | str) -> None:
        """Undeploy and delete one version. Raises NotFound."""
        record = await self.backend.models.version(name, version)
        await self._release(name, record.version)
        await self.backend.models.delete_version(name, record.version)

    async def _release(self, name: str, version: int | None) -> None:
        """End the conversions and deployments that hold on to a model, or to one version of it."""
        for job in self.tasks.find(ConvertHandler.task_type, name):
            if version is None or job.parameters.version in (version, None):
                self.tasks.abort(job, Cancelled(f"model {name} is being deleted"))
                while job.outcome is None:
                    await job.after(len(job.events))
        for record in self.backend.cluster.deployments():
            if record.model == name and version in (None, record.version):
                await self.backend.cluster.undeploy(record.id)
