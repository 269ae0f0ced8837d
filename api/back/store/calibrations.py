"""The calibrations of model versions: in the database, and in memory for each request that needs one."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncConnection

from api.back.store import catalog
from api.back.store.database import Database
from api.back.store.records import VersionRecord, VersionState
from api.errors import Conflict
from runtime.calibration import CALIBRATION_FILE, Calibration
from runtime.contract import Kind

REGRESSION = "regression"


class Calibrations:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[tuple[str, int], Calibration] = {}

    def of(self, model: str, version: int) -> Calibration | None:
        """None where the scores are to be as the model gives them."""
        return self._known.get((model, version))

    async def refresh(self, connection: AsyncConnection) -> None:
        """See those that were written meanwhile, also by other façades."""
        self._known = await catalog.read_calibrations(connection)

    async def add_from(self, folder: Path, version: VersionRecord, connection: AsyncConnection) -> None:
        """Add what came with an artifact, which the exporter has checked, if anything did."""
        file = folder / CALIBRATION_FILE
        if await asyncio.to_thread(file.is_file):
            calibration = Calibration.from_json(await asyncio.to_thread(file.read_bytes))
            await catalog.write_calibration(connection, version.model, version.version, calibration)
            await self.refresh(connection)

    async def set(self, version: VersionRecord, calibration: Calibration | None) -> None:
        """None removes it. Raises Conflict: it is not ready, or has no probabilities of labels."""
        if version.state is not VersionState.READY or version.manifest is None:
            raise Conflict(
                f"model {version.model!r} version {version.version} is {version.state.value}, not ready"
            )
        why = _why_not(version)
        if calibration is not None and why is not None:
            raise Conflict(f"model {version.model!r} {why}: there is nothing to calibrate")
        await self.write(version, calibration)

    async def write(self, version: VersionRecord, calibration: Calibration | None) -> None:
        async with self._database.write() as connection:
            await catalog.write_calibration(connection, version.model, version.version, calibration)
            await self.refresh(connection)


def _why_not(version: VersionRecord) -> str | None:
    """Why the version has no scores that a calibration could correct."""
    assert version.manifest is not None
    if version.manifest.kind is Kind.LM:
        return "is a language model: it has no labels of its own"
    if not version.manifest.labels:
        return "tags slots alone"
    return "is a regression" if version.manifest.problem_type == REGRESSION else None
