"""Trainings in a child process of bounded memory and time, each in a folder that a restart goes on from.

`trainings/TASK` below the home folder has the rows, the request, and the run with its checkpoints. The folder
is there from the first moment of a training until its task is over; where a server dies, its next start goes
on from the last checkpoint.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from api.back.child import Bounds, InputRefusedError, Progress, run_bounded
from api.back.settings import BackSettings
from api.back.store.models import ModelStore
from api.back.store.records import VersionRecord
from api.errors import InvalidInput
from export.archive import pack_folder

PACKAGES = ("accelerate", "matplotlib", "onnx", "safetensors", "tokenizers", "torch", "transformers")
REQUEST, OUTCOME, RESULT, ARCHIVE = "request.json", "outcome.json", "result", "result.tar.gz"
# What a training sees as this process does: GPUs, and how many threads of a CPU it may use.
INHERITED = ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
# It reaches no model hub. Threads that wait for each other give way to the model servers.
GIVEN = {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def missing_packages() -> list[str]:
    """Packages of the extra `train` that are not installed here; none of them is imported."""
    return [name for name in PACKAGES if find_spec(name) is None]


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training measured of its checkpoint. A figure that is no finite number is None."""

    held_out: dict[str, float | None]
    test: dict[str, float | None] | None
    seconds: float  # of all parts of the run
    steps: int
    rows: int
    report: list[str]  # what the run said before its first step


class Trainings:
    """The folders of trainings, by the ids of their tasks."""

    def __init__(self, settings: BackSettings, models: ModelStore) -> None:
        self._settings = settings
        self._models = models

    def folder(self, task_id: str) -> Path:
        return self._settings.trainings.absolute() / task_id

    def begun(self, task_id: str) -> bool:
        """Whether a training of this task began on this machine."""
        return self.folder(task_id).is_dir()

    def known(self) -> list[str]:
        """The tasks that have a folder. Blocking."""
        folder = self._settings.trainings
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def open(self, task_id: str) -> Path:
        """The folder, made where it is missing; `prepared` says whether it has its request. Blocking."""
        folder = self.folder(task_id)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def prepared(self, task_id: str) -> bool:
        return (self.folder(task_id) / REQUEST).is_file()

    async def place_artifact(self, task_id: str, version: VersionRecord, name: str) -> None:
        """Lay a stored model's artifact out for a training that begins with it, under `name`."""
        await self._models.place_artifact(version, self.folder(task_id) / "artifact" / name)

    def place_rows(self, task_id: str, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows as JSON lines. Blocking."""
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
        (self.folder(task_id) / name).write_text(text, "utf-8")

    def prepare(self, task_id: str, request: Mapping[str, Any]) -> None:
        """Write the request, last of all that the training needs. Blocking."""
        path = self.folder(task_id) / REQUEST
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(dict(request)), "utf-8")
        partial.replace(path)

    async def train(self, task_id: str, progress: Progress) -> Trained:
        """Run what is prepared, or go on with it; one that is over is only read.

        `progress` gets {"stage", "done", "total", ...}. Raises InvalidInput with the fields of
        `train/options.py` or those of rows, ServerFault, StoreFull.
        """
        folder = self.folder(task_id)
        if not (folder / OUTCOME).is_file():
            await self._run(folder, progress)
        return Trained(**json.loads(await asyncio.to_thread((folder / OUTCOME).read_text, "utf-8")))

    async def _run(self, folder: Path, progress: Progress) -> None:
        settings = self._settings
        scratch = folder / "tmp"
        await asyncio.to_thread(scratch.mkdir, exist_ok=True)
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        try:
            await run_bounded(
                "train",
                [str(folder)],
                name="training",
                scratch=scratch,
                bounds=Bounds(settings.training_memory_bytes, settings.training_seconds),
                progress=progress,
                variables=inherited | GIVEN,
            )
        except InputRefusedError as error:
            raise refused(error.event) from None

    async def store(self, task_id: str, name: str) -> tuple[VersionRecord, bool]:
        """The checkpoint as a version of a model, as an upload of it would be; and whether it is new.

        Raises as ModelStore.add_upload.
        """
        folder = self.folder(task_id)
        await asyncio.to_thread(pack_folder, folder / RESULT / name, folder / ARCHIVE)
        return await self._models.add_upload(name, folder / ARCHIVE, f"{name}.tar.gz")

    async def discard(self, task_id: str) -> None:
        """Remove the folder. A cancelled caller does not interrupt it."""
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, self.folder(task_id), ignore_errors=True))


def refused(event: Mapping[str, Any]) -> InvalidInput:
    """What a training says of its request: of an option (`--batch-size: ...`), of a row, or of a file."""
    message = str(event.get("message"))
    if file := event.get("file"):
        field = str(file).partition(".")[0]
        where = [f"row {event['row']}"] if event.get("row") is not None else []
        where += [str(event["field"])] if event.get("field") else []
        return InvalidInput.of(field, ": ".join([*where, message]))
    option, separator, rest = message.partition(": ")
    if separator and option.startswith("--"):
        return InvalidInput.of(f"options.{option[2:].replace('-', '_')}", rest)
    return InvalidInput.of("options", message)
