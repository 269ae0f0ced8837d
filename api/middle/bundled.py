"""The checkpoints that come with the release: imported and deployed once, and not again after a removal."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from api.back.home import LEDGER_FILE
from api.back.store.failures import translated
from api.caller import Caller
from api.errors import ApiError, NotFound, ServerFault
from api.middle.job import Job
from api.middle.schemas.convert import ConvertParameters
from api.middle.service import Service
from export.archive import pack_folder

READ = (".json", ".safetensors", ".txt")  # of a folder's files, those that hold a checkpoint
CALLER = Caller("startup")
ELSEWHERE = 0  # the version, where another façade imported it

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """A step of the bring-up, to be shown. `done` and `total` count within the stage."""

    stage: str
    message: str
    done: int = 0
    total: int = 0


Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Imported:
    """What the ledger keeps of a folder: its content at the import, and the version that it became."""

    fingerprint: str
    version: int


class Ledger:
    """Which bundled checkpoints this home has imported, or has found where others use the same database.

    If one of them is missing, a user removed it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()  # several façades of a machine have a link to one ledger
        self._entries: dict[str, Imported] = {}
        if path.exists():
            try:
                entries = json.loads(path.read_text())
                self._entries = {name: Imported(**entry) for name, entry in entries.items()}
            except (ValueError, TypeError, AttributeError) as error:
                raise ServerFault(
                    f"{path} is damaged ({error}): remove it, and the bundled models are imported again"
                ) from None

    def get(self, name: str) -> Imported | None:
        return self._entries.get(name)

    def set(self, name: str, entry: Imported) -> None:
        self._entries[name] = entry
        partial = self._path.with_suffix(".part")
        partial.write_text(json.dumps({name: asdict(item) for name, item in self._entries.items()}, indent=2))
        partial.replace(self._path)


def fingerprint(folder: Path) -> str:
    """SHA-256 over the names and contents of the files that a conversion reads; far quicker than packing."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in READ):
        total.update(f"{path.relative_to(folder).as_posix()}\n{path.stat().st_size}\n".encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def checkpoint_folders(models: Path) -> list[Path]:
    """The subfolders of `models` that hold a checkpoint."""
    if not models.is_dir():
        return []
    return sorted(path.parent for path in models.glob("*/config.json"))


async def import_bundled(service: Service, models: Path, home: Path, staging: Path, report: Report) -> None:
    """Bring in each checkpoint folder under `models` that this home has not seen; report one that fails."""
    folders = await asyncio.to_thread(checkpoint_folders, models)
    ledger = Ledger(home / LEDGER_FILE)
    await asyncio.to_thread(staging.mkdir, parents=True, exist_ok=True)
    for number, folder in enumerate(folders):
        try:
            with translated(staging):
                await _import_one(service, folder, staging, ledger, report, (number, len(folders)))
        except ApiError as error:  # noqa: PERF203 - one bad checkpoint must not keep the others out
            log.error("bundled model %s was not imported: %s", folder.name, error.detail)
            report(Progress("failed", f"{folder.name}: {error.detail}", number, len(folders)))


async def _import_one(
    service: Service, folder: Path, staging: Path, ledger: Ledger, report: Report, place: tuple[int, int]
) -> None:
    mark = await asyncio.to_thread(fingerprint, folder)
    before = ledger.get(folder.name)
    if before is not None and before.fingerprint == mark:
        return
    if before is None and await _is_known(service, folder.name):
        ledger.set(folder.name, Imported(mark, ELSEWHERE))
        return
    deployed = service.models.deployments(folder.name)
    if before is not None and not deployed:
        ledger.set(
            folder.name, Imported(mark, before.version)
        )  # a user removed it: a new release stays out too
        return
    report(Progress("import", f"importing {folder.name}", *place))
    archive = staging / f"bundled-{folder.name}.tar.gz"
    await asyncio.to_thread(pack_folder, folder, archive)
    version, _ = await service.models.add_upload(folder.name, archive, archive.name)
    parameters = ConvertParameters(model=folder.name, version=version.version, deploy=True)
    job = await service.models.convert(parameters, CALLER)
    await _follow(job, folder.name, report)
    for record in deployed:
        if before is not None and record.version == before.version != version.version:
            await service.models.undeploy(CALLER, record.id)  # the release's older version makes way
    ledger.set(folder.name, Imported(mark, version.version))


async def _is_known(service: Service, name: str) -> bool:
    """Whether the model was ever deployed, as by a façade with another home: then it is the user's."""
    try:
        return bool(await service.models.history(name, limit=1, before=None))
    except NotFound:
        return False


async def _follow(job: Job, name: str, report: Report) -> None:
    """Report the job's progress until its outcome; raises its error."""
    seen = 0
    while events := await job.after(seen):
        seen += len(events)
        for event in events:
            stage, done, total = (event.data.get(key) for key in ("stage", "done", "total"))
            report(Progress("import", f"{name}: {stage}", int(done or 0), int(total or 0)))
    await job.answer()
