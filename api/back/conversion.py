"""Conversion of an uploaded archive to an artifact, in a child process of bounded memory and time."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shutil
import sys
import uuid
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from api.back.cluster.installation import ROOT
from api.back.guard import guarded
from api.back.settings import BackSettings
from api.back.store.models import ModelStore
from api.back.store.records import VersionRecord, VersionState
from api.errors import ApiError, InvalidInput, ServerFault, StoreFull, StoreUnavailable
from kernels.library import SWITCH
from runtime.manifest import Manifest

NICE = 10  # requests have priority
MAX_LINE = 1024 * 1024  # bytes of one progress line
ERROR_TAIL = 2000  # bytes of stderr that are logged
INPUT_AT_FAULT = 2  # exit status of the exporter
SIGNALLED = 128  # added by the guard to a signal's number
OUT_OF_ROOM = re.compile(r"No space left on device|Disk quota exceeded")
OUT_OF_MEMORY = re.compile(r"MemoryError|bad_alloc|[Cc]annot allocate memory|Failed to allocate")

logger = logging.getLogger(__name__)
Progress = Callable[[dict[str, Any]], None]


def _ignore(event: dict[str, Any]) -> None:
    """For callers that show no progress."""


class Converter:
    """Conversions may run at the same time; each has its staging folder, which is removed at the end."""

    def __init__(self, settings: BackSettings, models: ModelStore) -> None:
        self._settings = settings
        self._models = models

    async def convert(self, version: VersionRecord, progress: Progress = _ignore) -> VersionRecord:
        """Convert and store; returns the version, ready. `progress` gets {"stage", "done", "total"}.

        A version that is ready is returned unchanged. Raises InvalidInput (field `file`: the checkpoint is at
        fault) or ServerFault; the version is then failed. After StoreUnavailable (database, disk) and after a
        cancelled conversion it is uploaded, and can be converted again.
        """
        if version.state is VersionState.READY:
            return version
        version = await self._models.set_state(version, VersionState.CONVERTING)
        try:
            return await self._convert(version, progress)
        except (InvalidInput, ServerFault) as error:
            with suppress(StoreUnavailable):
                await self._models.set_state(version, VersionState.FAILED, error.detail)
            raise
        except (StoreUnavailable, asyncio.CancelledError):
            with suppress(ApiError):
                await asyncio.shield(self._models.set_state(version, VersionState.UPLOADED))
            raise

    async def _convert(self, version: VersionRecord, progress: Progress) -> VersionRecord:
        async with self._staging() as folder:
            archive, artifact = folder / "upload", folder / "artifact"
            await self._models.place_archive(version, archive)
            try:
                await asyncio.wait_for(
                    self._run(version.model, archive, artifact, progress),
                    self._settings.convert_timeout_seconds,
                )
            except asyncio.TimeoutError:
                limit = self._settings.convert_timeout_seconds
                raise ServerFault(f"the conversion took longer than {limit:g} s") from None
            manifest = await asyncio.to_thread(Manifest.load, artifact)
            return await self._models.finish(version, manifest, artifact)

    async def _run(self, model: str, archive: Path, artifact: Path, progress: Progress) -> None:
        variants = ",".join(variant.value for variant in self._settings.variants)
        command = [sys.executable, "-m", "export", str(archive), str(artifact)]
        command += ["--name", model, "--variants", variants, "--json-progress"]
        inherited = {
            name: os.environ[name] for name in ("HOME", "LANG", "PATH", SWITCH) if name in os.environ
        }
        child = await asyncio.create_subprocess_exec(
            *guarded(command, nice=NICE, data_bytes=self._settings.convert_memory_bytes),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            limit=MAX_LINE,
            cwd=ROOT,  # `-m` imports from the working directory first: it must not be that of an upload
            env={**inherited, "TMPDIR": str(artifact.parent)},
            start_new_session=True,
        )
        try:
            failure, complaint = await asyncio.gather(_follow(child, progress), _tail(child))
            status = await child.wait()
        finally:
            await _end(child)
        if status == INPUT_AT_FAULT and failure is not None:
            raise InvalidInput.of("file", failure)
        if status != 0:
            logger.error("the exporter ended with status %d: %s", status, complaint)
            if OUT_OF_ROOM.search(f"{failure} {complaint}"):
                raise StoreFull(f"the disk is full: {artifact.parent}: make room there")
            raise ServerFault(self._explain(status, complaint))

    def _explain(self, status: int, complaint: str) -> str:
        limit = f"{self._settings.convert_memory_bytes} bytes of memory"
        if OUT_OF_MEMORY.search(complaint):
            return f"the conversion needs more than {limit}"
        how = f"died of signal {status - SIGNALLED}" if status > SIGNALLED else f"failed with status {status}"
        return f"the exporter {how}; it may use at most {limit}, and the server's log says more"

    @asynccontextmanager
    async def _staging(self) -> AsyncIterator[Path]:
        folder = self._settings.staging.absolute() / f"convert-{uuid.uuid4().hex}"
        await asyncio.to_thread(folder.mkdir, parents=True)
        try:
            yield folder
        finally:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))


async def _events(lines: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    try:
        async for line in lines:
            yield json.loads(line)
    except ValueError as error:  # not JSON, or a line beyond MAX_LINE
        raise ServerFault(f"the exporter's report cannot be read: {error}") from None


async def _follow(child: Process, progress: Progress) -> str | None:
    """Pass progress on; returns the exporter's message if the input is at fault."""
    failure = None
    assert child.stdout is not None
    async for event in _events(child.stdout):
        if event["event"] == "progress":
            progress({name: event[name] for name in ("stage", "done", "total")})
        elif event["event"] == "error":
            failure = str(event["message"])
    return failure


async def _tail(child: Process) -> str:
    """The last bytes that it wrote to stderr."""
    tail = b""
    assert child.stderr is not None
    while chunk := await child.stderr.read(ERROR_TAIL):
        tail = (tail + chunk)[-ERROR_TAIL:]
    return tail.decode(errors="replace").strip()


async def _end(child: Process) -> None:
    """Kill it if it still runs, with its child processes."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, 9)
    await asyncio.shield(child.wait())
