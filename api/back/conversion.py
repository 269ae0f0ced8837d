"""Conversion of an uploaded archive to an artifact, in a child process of bounded memory and time."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from api.back.child import Bounds, Event, InputRefusedError, Progress, run_bounded
from api.back.settings import BackSettings
from api.back.store.models import ModelStore
from api.back.store.records import VersionRecord, VersionState
from api.errors import ApiError, InvalidInput, ServerFault, StoreUnavailable
from runtime.manifest import Manifest


def _ignore(event: Event) -> None:
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
            await self._export(version.model, archive, artifact, progress)
            manifest = await asyncio.to_thread(Manifest.load, artifact)
            return await self._models.finish(version, manifest, artifact)

    async def _export(self, model: str, archive: Path, artifact: Path, progress: Progress) -> None:
        variants = ",".join(variant.value for variant in self._settings.variants)
        options = ["--name", model, "--variants", variants, "--json-progress"]
        bounds = Bounds(self._settings.convert_memory_bytes, self._settings.convert_timeout_seconds)
        try:
            await run_bounded(
                "export",
                [str(archive), str(artifact), *options],
                name="conversion",
                scratch=archive.parent,
                bounds=bounds,
                progress=progress,
            )
        except InputRefusedError as error:
            raise InvalidInput.of("file", str(error)) from None

    @asynccontextmanager
    async def _staging(self) -> AsyncIterator[Path]:
        folder = self._settings.staging.absolute() / f"convert-{uuid.uuid4().hex}"
        await asyncio.to_thread(folder.mkdir, parents=True)
        try:
            yield folder
        finally:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))
