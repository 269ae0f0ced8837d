"""The Model Store: models, their versions and aliases; records in the database, files in the blob store."""

from __future__ import annotations

from pathlib import Path

from api.back.store.archives import ArchiveDownload
from api.back.store.records import ModelRecord, VersionRecord


class ModelStore:
    """Names are `[a-z0-9][a-z0-9._-]{0,63}`; versions are integers from 1 and never come twice under one name."""

    async def list(self) -> list[ModelRecord]:
        """All models, by name."""
        raise NotImplementedError

    async def get(self, name: str) -> ModelRecord:
        """Raises NotFound."""
        raise NotImplementedError

    async def versions(self, name: str) -> list[VersionRecord]:
        """All versions, lowest first. Raises NotFound where the model is not there."""
        raise NotImplementedError

    async def version(self, name: str, version: int | str) -> VersionRecord:
        """One version by its number, or by an alias, `latest` among them. Raises NotFound."""
        raise NotImplementedError

    async def update(
        self, name: str, *, description: str | None = None, aliases: dict[str, int | None] | None = None
    ) -> ModelRecord:
        """Set what is given; an alias set to None goes. Raises NotFound, InvalidInput (`aliases.NAME`)."""
        raise NotImplementedError

    async def add_upload(self, name: str, archive: Path, filename: str) -> tuple[VersionRecord, bool]:
        """Vet the archive and take it in: `archive` itself is moved, and is gone afterwards in any case.

        The bool says whether the version is new: the same bytes under the same name give the version that they
        already made. Raises InvalidInput (fields `name` and `file`), TooLarge.
        """
        raise NotImplementedError

    async def delete_version(self, name: str, version: int | str) -> None:
        """Remove records, aliases and the blobs nobody else uses. Raises NotFound; Conflict while deployed."""
        raise NotImplementedError

    async def delete(self, name: str) -> None:
        """Remove a model with all its versions. Raises NotFound; Conflict while one is deployed."""
        raise NotImplementedError

    async def archive(self, name: str, version: int | str) -> ArchiveDownload:
        """The artifact as a .tar.gz. Raises NotFound; Conflict while the version is not ready."""
        raise NotImplementedError
