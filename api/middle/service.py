"""The middle layer as one thing: all that the routes call once the back layer is open."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta

from api.back.backend import Backend
from api.back.cluster.manager import ClusterManager
from api.back.cluster.records import CapacityRecord, Readiness, ServerRecord
from api.caller import Caller
from api.config import Settings
from api.middle.accounts import Accounts
from api.middle.allowances import Allowance, Allowances
from api.middle.batch_lines import LineFormat
from api.middle.batch_runner import BatchParts
from api.middle.batches import Batches, BatchLimits
from api.middle.callbacks import OUTCOMES, Callbacks
from api.middle.chat import Chat
from api.middle.dispatcher import Dispatcher
from api.middle.files import FileLimits, Files
from api.middle.gaps import Gaps
from api.middle.handlers import MODEL_TASKS
from api.middle.handlers.base import Lane
from api.middle.handlers.convert import ConvertHandler
from api.middle.handlers.train import TrainHandler, TrainLimits
from api.middle.leases import LeaseKeeper
from api.middle.metrics import ClusterCollector, Metrics
from api.middle.models import Models
from api.middle.tasks import TaskManager


@dataclass(frozen=True, slots=True)
class Service:
    """The front's only way to the back layer."""

    tasks: TaskManager
    dispatcher: Dispatcher
    models: Models
    leases: LeaseKeeper
    files: Files
    accounts: Accounts
    batches: Batches
    callbacks: Callbacks
    chat: Chat
    _cluster: ClusterManager
    _train: TrainHandler

    @classmethod
    def build(cls, backend: Backend, settings: Settings, metrics: Metrics, form: LineFormat) -> Service:
        metrics.registry.register(ClusterCollector(backend.cluster))
        gaps = Gaps(settings.num_slots, settings.batch_slots, metrics)
        cluster = backend.cluster
        clamps = settings.clamp_max_tokens
        model_handlers = [
            make(cluster, metrics, settings.fan_out, gaps.taken, clamp_max_tokens=clamps)
            for make in MODEL_TASKS
        ]
        accounts = Accounts(backend.usage, backend.audit)
        files = Files(backend.files, backend.batches, _file_limits(settings))
        convert = ConvertHandler(backend, settings.precision, accounts)
        training = TrainLimits(settings.training_jobs, settings.training_rows)
        train = TrainHandler(backend, files, convert, training)
        handlers = [*model_handlers, convert, train]
        tasks = TaskManager(
            backend.queue,
            backend.tasks,
            {handler.task_type: handler for handler in handlers},
            metrics,
            max_in_flight=settings.max_in_flight,
            max_queued=settings.max_queued_tasks,
        )
        callbacks = _callbacks(backend, settings, metrics)
        chat = Chat(cluster, backend.templates, settings.chat_template)
        tasks.observers += [accounts.note, callbacks.note]
        cluster.observers.append(accounts.record_own)
        return cls(
            tasks,
            Dispatcher(tasks, _workers(settings)),
            Models(backend.models, backend.uploads, backend.cluster, tasks, accounts, settings.precision),
            LeaseKeeper(backend.queue, tasks),
            files,
            accounts,
            _batches(
                backend, settings, metrics, form, chat, gaps, files, accounts, tasks.admission.allowances
            ),
            callbacks,
            chat,
            backend.cluster,
            train,
        )

    async def remove_leftovers(self) -> None:
        """What earlier starts left of trainings that are over."""
        await self._train.sweep()

    async def drain(self, seconds: float) -> None:
        """Refuse new tasks, give the running ones `seconds`, then end them and give back those that wait."""
        await self.batches.stop()
        await self.dispatcher.stop()
        await self.tasks.drain(seconds)
        await self.leases.stop()
        await self.callbacks.stop()

    def allowances(self, caller: Caller) -> list[Allowance]:
        """What the rates of the caller have left."""
        return self.tasks.admission.allowances.left(caller)

    def servers(self) -> list[ServerRecord]:
        return self._cluster.servers()

    def drain_server(self, name: str, draining: bool) -> ServerRecord:
        """Raises NotFound."""
        return self._cluster.drain_server(name, draining)

    def capacity(self) -> list[CapacityRecord]:
        return self._cluster.capacity()

    def readiness(self) -> Readiness:
        return self._cluster.readiness()

    async def engine_metrics(self) -> str:
        """In Prometheus' text format."""
        return await self._cluster.engine_metrics()


def _callbacks(backend: Backend, settings: Settings, metrics: Metrics) -> Callbacks:
    secret = settings.callback_secret
    text = None if secret is None else secret.get_secret_value()
    for outcome in OUTCOMES:
        metrics.callbacks.labels(outcome)  # so that each begins with 0

    def count(outcome: str) -> None:
        metrics.callbacks.labels(outcome).inc()

    return Callbacks(backend.callbacks, text, private=settings.callback_private, count=count)


def _workers(settings: Settings) -> dict[Lane, int]:
    """A worker ends trainings also where there are none now: an earlier start may have left some."""
    trainings = max(1, settings.training_jobs)
    return {Lane.MODELS: settings.task_workers, Lane.CONVERSIONS: 1, Lane.TRAININGS: trainings}


def _file_limits(settings: Settings) -> FileLimits:
    return FileLimits(
        settings.max_files_per_caller, settings.max_files, timedelta(days=settings.file_retention_days)
    )


def _batches(
    backend: Backend,
    settings: Settings,
    metrics: Metrics,
    form: LineFormat,
    chat: Chat,
    gaps: Gaps,
    files: Files,
    accounts: Accounts,
    allowances: Allowances,
) -> Batches:
    # One request at a time for each line, so that `gaps` knows what a line takes.
    handlers = [
        make(
            backend.cluster,
            metrics,
            1,
            lambda _: nullcontext(),
            clamp_max_tokens=settings.clamp_max_tokens,
        )
        for make in MODEL_TASKS
    ]
    parts = BatchParts(
        store=backend.batches,
        files=files,
        handlers={handler.task_type: handler for handler in handlers},
        gaps=gaps,
        allowances=allowances,
        keys=backend.keys,
        form=form,
        chat=chat,
        metrics=metrics,
        on_end=accounts.note,
        staging=settings.back.staging,
        max_body_bytes=settings.max_body_bytes,
        max_file_bytes=settings.max_file_bytes,
        ahead=settings.batch_slots,
    )
    retention = timedelta(days=settings.file_retention_days)
    return Batches(parts, BatchLimits(settings.max_batches_per_caller, settings.max_batches, retention))
