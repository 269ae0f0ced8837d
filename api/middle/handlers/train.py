"""Handler `train`: rows become a stored version of a model, in a child process of bounded memory and time."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from api.back.backend import Backend
from api.back.store.records import VersionRecord, VersionState
from api.back.training import Trained, missing_packages, refused
from api.caller import Caller, Scope
from api.errors import (
    ApiError,
    FieldError,
    InvalidInput,
    NotFound,
    RetryLater,
    ServerFault,
    Unsupported,
)
from api.middle.files import TRAINING_INPUT, Files
from api.middle.handlers.base import Handler, Lane
from api.middle.handlers.convert import ConvertHandler
from api.middle.job import Job
from api.middle.schemas.convert import ConvertParameters
from api.middle.schemas.train import TrainAnswer, TrainParameters
from runtime.contract import Kind, Variant
from train.data import DataError, Problem, check_rows, parse_row, suffixes
from train.options import described, make_options

if TYPE_CHECKING:
    from train.data import Row

INLINE = Path("data.jsonl")  # what the reader of rows calls those of a request
SOURCES = ("data", "held_out", "test")
LOST = "the training began on another machine, or its folder is gone: submit it again"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainLimits:
    jobs: int  # at once; 0: none
    rows: int  # of one training, of all its files


class TrainHandler(Handler[TrainParameters, TrainAnswer]):
    """Emits `progress` events {stage, done, total}, while it trains also loss, seconds_left and figures."""

    task_type = "train"
    lane = Lane.TRAININGS
    scope = Scope.MODELS_WRITE
    parameters = TrainParameters
    answer = TrainAnswer

    def __init__(self, backend: Backend, files: Files, convert: ConvertHandler, limits: TrainLimits) -> None:
        self._backend = backend
        self._files = files
        self._convert = convert
        self._limits = limits

    async def check(self, parameters: TrainParameters, caller: Caller) -> None:
        """Refuse what can be seen to be wrong now. Raises Unsupported, Forbidden, Conflict, InvalidInput."""
        self._require_ready()
        try:
            await self._check(parameters, caller)
        except InvalidInput as error:
            found = [FieldError(f"parameters.{each.field}", each.message) for each in error.errors]
            raise InvalidInput(found) from None

    def _require_ready(self) -> None:
        if self._limits.jobs == 0:
            raise Unsupported("this server trains no models: LMAAS_TRAINING_JOBS is 0")
        if missing := missing_packages():
            raise Unsupported(
                f"this server cannot train models, because it lacks {', '.join(missing)}: "
                "pip install 'lmaas[train]' where it runs"
            )

    async def _check(self, parameters: TrainParameters, caller: Caller) -> None:
        check_options(parameters)
        await self._backend.models.check_new(parameters.model, Kind(parameters.kind))
        for name in SOURCES:
            await self._source(name, parameters, caller)
        if parameters.start is not None:
            caller.require_model(parameters.start.partition("/")[0])
            await self._start(parameters.start)
        await asyncio.to_thread(check_inline_rows, parameters)

    async def _source(self, name: str, parameters: TrainParameters, caller: Caller) -> str | None:
        """The digest and, after a space, the file name that a source's file gets; None: it is no file."""
        given = getattr(parameters, name)
        if not isinstance(given, str):
            return None
        try:
            record = await self._files.get(caller, given)
        except NotFound as error:
            raise InvalidInput.of(name, error.detail) from None
        if record.purpose != TRAINING_INPUT:
            raise InvalidInput.of(name, f"is a file of purpose {record.purpose!r}, not {TRAINING_INPUT!r}")
        suffix, taken = Path(record.filename).suffix.lower(), suffixes(Kind(parameters.kind))
        if suffix not in taken:
            reads = f"a {parameters.kind} reads {', '.join(taken)}"
            raise InvalidInput.of(name, f"{record.filename[:60]!r} has another form: {reads}")
        return f"{record.sha256} {name}{suffix}"

    async def _start(self, start: str) -> VersionRecord:
        """The stored version to begin with. Raises InvalidInput."""
        name, _, version = start.partition("/")
        try:
            record = await self._backend.models.version(name, version or "latest")
        except NotFound as error:
            raise InvalidInput.of("from", error.detail) from None
        if record.state is not VersionState.READY or record.manifest is None:
            raise InvalidInput.of("from", f"{start} is {record.state.value}, not ready")
        if Variant.FP32 not in record.manifest.variants:
            kept = ", ".join(variant.value for variant in record.manifest.variants)
            raise InvalidInput.of("from", f"training begins from fp32, and {start} has {kept}")
        return record

    async def run(self, parameters: TrainParameters, job: Job) -> TrainAnswer:
        trainings = self._backend.trainings
        if job.record.runs > 1 and not trainings.begun(job.id):
            raise ServerFault(LOST)
        trainings.open(job.id)
        keep = False
        try:
            self._require_ready()
            await self.sweep()
            if not trainings.prepared(job.id):
                await self._prepare(parameters, job)
            trained = await trainings.train(job.id, lambda event: job.emit("progress", event))
            return await self._store(parameters, job, trained)
        except RetryLater:
            keep = not job.events  # then it is tried again
            raise
        except asyncio.CancelledError:  # a server that stops lets the next one go on with it
            keep = isinstance(job.abort_reason, RetryLater)
            raise
        finally:
            if not keep:
                await trainings.discard(job.id)

    async def sweep(self) -> None:
        """Remove the folders of trainings whose tasks are over, or gone."""
        trainings = self._backend.trainings
        for task_id in await asyncio.to_thread(trainings.known):
            try:
                over = (await self._backend.tasks.get(task_id)).state.finished
            except NotFound:
                over = True
            if over:
                await trainings.discard(task_id)

    async def _prepare(self, parameters: TrainParameters, job: Job) -> None:
        """Lay out in the training's folder all that it needs."""
        trainings, caller = self._backend.trainings, job.record.caller
        folder = trainings.folder(job.id)
        names: dict[str, str | None] = {"held_out": str(parameters.held_out), "test": None}
        for source in SOURCES:
            given = getattr(parameters, source)
            file = await self._source(source, parameters, caller)
            if file is not None:
                sha256, _, name = file.partition(" ")
                await self._backend.files.place(sha256, folder / name)
                names[source] = name
            elif isinstance(given, list):
                names[source] = f"{source}.jsonl"
                await asyncio.to_thread(trainings.place_rows, job.id, f"{source}.jsonl", given)
        start = None
        if parameters.start is not None:
            version = await self._start(parameters.start)
            start = f"{version.model}-{version.version}"
            await trainings.place_artifact(job.id, version, start)
        request = {
            "name": parameters.model,
            "kind": parameters.kind,
            "options": parameters.given_options,
            "train": names["data"],
            "held_out": names["held_out"],
            "test": names["test"],
            "start": start,
            "max_rows": self._limits.rows,
        }
        await asyncio.to_thread(trainings.prepare, job.id, request)

    async def _store(self, parameters: TrainParameters, job: Job, trained: Trained) -> TrainAnswer:
        """The result as a version, converted, and deployed where that is asked for."""
        models, name = self._backend.models, parameters.model
        known = any(record.name == name for record in await models.list())
        storing = asyncio.ensure_future(self._backend.trainings.store(job.id, name))
        try:
            version, _ = await asyncio.shield(storing)
            convert = ConvertParameters(
                model=name,
                version=version.version,
                deploy=parameters.deploy,
                precision=parameters.precision,
                force=parameters.force,
            )
            converted = await self._convert.run(convert, job)
        except asyncio.CancelledError:
            if not isinstance(job.abort_reason, RetryLater):
                await asyncio.shield(self._take_back(storing, known))
            raise
        return TrainAnswer(**converted.model_dump(), **dataclasses.asdict(trained))

    async def _take_back(self, storing: Awaitable[tuple[VersionRecord, bool]], known: bool) -> None:
        """Delete what a cancelled training stored, if it is new and not deployed."""
        try:
            version, new = await storing
            if new:
                await self._backend.models.delete_version(version.model, version.version)
            if new and not known:
                await self._backend.models.delete(version.model)
        except (ApiError, OSError) as error:
            log.warning("a cancelled training's version stays: %s", error)


def check_options(parameters: TrainParameters) -> None:
    """As `lmaas train` checks its options. Raises InvalidInput."""
    kind, given = Kind(parameters.kind), parameters.given_options
    about = described()
    for name in given:
        if kind not in about[name].kinds:
            kinds = " and ".join(each.value for each in about[name].kinds)
            raise InvalidInput.of(f"options.{name}", f"is for {kinds}, not for {kind.value}")
    start = parameters.start
    options = make_options(kind, **given, train=INLINE, out=INLINE, start=start)
    try:
        options.check(kind)
    except ValueError as error:
        raise refused({"message": str(error)}) from None


def check_inline_rows(parameters: TrainParameters) -> None:
    """As the rows of a file are checked; all together where none is in a file. Raises InvalidInput."""
    kind = Kind(parameters.kind)
    problem = Problem(parameters.given_options.get("problem", Problem.SINGLE))
    rows: dict[Path, list[Row]] = {}
    for source in SOURCES:
        given = getattr(parameters, source)
        if isinstance(given, list):
            path = Path(source)
            try:
                rows[path] = [parse_row(path, n, each, kind, problem) for n, each in enumerate(given, 1)]
            except DataError as error:
                raise _of_row(error) from None
    inline = rows.pop(Path("data"), None)
    if inline is None:
        return
    try:
        check_rows((Path("data"), inline), rows)
    except DataError as error:
        raise _of_row(error) from None


def _of_row(error: DataError) -> InvalidInput:
    """The error of a row of the request, by its place there."""
    where = [
        str(error.path),
        *([str(error.row - 1)] if error.row else []),
        *([error.field] if error.field else []),
    ]
    return InvalidInput.of(".".join(where), error.message)
