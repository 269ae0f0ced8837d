"""The Model Store: models, their versions and aliases; records in the database, files in the blob store."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncConnection

from api.back.store import catalog, garbage
from api.back.store.archives import ArchiveDownload
from api.back.store.blobs import BlobStore
from api.back.store.calibrations import Calibrations
from api.back.store.database import Database
from api.back.store.records import LATEST, ModelRecord, StoredFile, VersionRecord, VersionState
from api.errors import Conflict, InvalidInput, NotFound, ServerFault, TooLarge
from export.archive import validate_archive
from export.errors import ArchiveError
from export.files import hash_file
from export.members import ArchiveLimits
from runtime.contract import MODEL_NAME, Kind, model_name, shown
from runtime.manifest import MANIFEST_FILE, Manifest

NUMBER = re.compile(r"[0-9]{1,9}")
MAX_DESCRIPTION = 4000  # characters

Models = list[ModelRecord]  # inside the class, `list` is its own method
Versions = list[VersionRecord]


class ModelStore:
    """Names match `MODEL_NAME`; versions count from 1, and a number is used once under the same name."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        staging: Path,
        *,
        max_archive_bytes: int,
        limits: ArchiveLimits,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._staging = staging
        self._max_archive_bytes = max_archive_bytes
        self._limits = limits
        self._aliases: dict[str, dict[str, int]] = {}  # model -> alias -> version, `latest` among them
        self.calibrations = Calibrations(database)

    async def recover(self) -> None:
        """After a start: let interrupted conversions start again."""
        async with self._database.write() as connection:
            await catalog.restart_conversions(connection)
            await self._refresh(connection)

    async def refresh(self) -> None:
        """See the aliases and calibrations of other façades that write to the same database."""
        async with self._database.read() as connection:
            await self._refresh(connection)

    async def _refresh(self, connection: AsyncConnection) -> None:
        await self.calibrations.refresh(connection)
        named = await catalog.read_aliases(connection)
        self._aliases = {name: named.get(name, {}) for name in await catalog.read_names(connection)}

    async def list(self) -> Models:
        """All models, by name."""
        async with self._database.read() as connection:
            return await catalog.read_models(connection)

    async def get(self, name: str) -> ModelRecord:
        """Raises NotFound."""
        async with self._database.read() as connection:
            return await catalog.read_model(connection, name)

    async def version(self, name: str, version: int | str) -> VersionRecord:
        """One version by its number, or by an alias, `latest` among them.

        Raises NotFound (`model`, `version`).
        """
        number = self.resolve(name, version)
        async with self._database.read() as connection:
            found = await catalog.read_versions(connection, name, number)
        if not found:
            if name not in self._aliases:
                raise catalog.no_model(name)
            raise NotFound(f"model {name!r} has no version {number}", "version")
        return found[0]

    def resolve(self, name: str, version: int | str) -> int:
        """The number that `version` (number, text or alias) stands for; it may not exist.

        Raises NotFound (`model`, `version`).
        """
        if isinstance(version, int):
            return version
        if NUMBER.fullmatch(version):
            return int(version)
        if name not in self._aliases:
            raise catalog.no_model(name)
        if version in self._aliases[name]:
            return self._aliases[name][version]
        if version == LATEST:
            raise NotFound(f"model {name!r} has no version that is ready", "version")
        raise NotFound(f"model {name!r} has no alias {version!r}", "version")

    async def check_new(self, name: str, kind: Kind) -> None:
        """Raise InvalidInput (`model`) for a bad name; Conflict where the model there is of another kind."""
        if not MODEL_NAME.fullmatch(name):
            raise InvalidInput.of("model", f"{shown(name)} does not match {MODEL_NAME.pattern}")
        try:
            found = await self.get(name)
        except NotFound:
            return
        if found.kind not in (None, kind):
            kept = found.kind.value if found.kind else None
            raise Conflict(f"model {name!r} is of kind {kept}, not {kind.value}: take another name")

    async def update(
        self, name: str, *, description: str | None = None, aliases: Mapping[str, int | None] | None = None
    ) -> ModelRecord:
        """Set what is given; an alias of None is removed. Raises NotFound, InvalidInput (`aliases.NAME`)."""
        if description is not None and len(description) > MAX_DESCRIPTION:
            raise InvalidInput.of("description", f"{len(description)} characters, at most {MAX_DESCRIPTION}")
        async with self._database.write() as connection:
            await catalog.read_model(connection, name)
            if description is not None:
                await catalog.describe(connection, name, description)
            for alias, version in (aliases or {}).items():
                await self._set_alias(connection, name, alias, version)
            record = await catalog.read_model(connection, name)
        self._aliases[name] = record.aliases
        return record

    async def _set_alias(
        self, connection: AsyncConnection, name: str, alias: str, version: int | None
    ) -> None:
        field = f"aliases.{alias}"
        if alias == LATEST:
            raise InvalidInput.of(field, "always names the highest version that is ready; it cannot be set")
        if not MODEL_NAME.fullmatch(alias) or NUMBER.fullmatch(alias):
            raise InvalidInput.of(field, f"{alias!r} does not match {MODEL_NAME.pattern}, or is a number")
        if version is not None and not await catalog.read_versions(connection, name, version):
            raise InvalidInput.of(field, f"model {name!r} has no version {version}")
        await catalog.set_alias(connection, name, alias, version)

    async def add_upload(
        self, name: str, archive: Path, filename: str, sha256: str | None = None
    ) -> tuple[VersionRecord, bool]:
        """Validate the archive and store it; the file `archive` is removed, also after an error.

        The bool says whether the version is new: the same bytes under the same name give the version that
        they already made. `filename` is for messages. A caller that hashed the archive while it was received
        gives its `sha256`. Raises InvalidInput (fields `name`, `file`), TooLarge.
        """
        try:
            _check_name(name)
            await asyncio.to_thread(self._validate, archive, filename, "file")
            if sha256 is None:
                sha256 = (await asyncio.to_thread(hash_file, archive))[1]
            return await self._add_validated(name, archive, sha256)
        finally:
            await asyncio.to_thread(archive.unlink, missing_ok=True)

    async def add_blob(self, name: str, sha256: str) -> tuple[VersionRecord, bool]:
        """As `add_upload`, of an archive that is stored already.

        Raises NotFound (`blob`), InvalidInput (fields `name`, `blob`), TooLarge, StoreUnavailable.
        """
        _check_name(name)
        missing = NotFound(f"sha256:{sha256} is not stored: send it with PUT /v1/blobs first", "blob")
        if await self._blobs.find(sha256) is None:
            raise missing
        archive = self._staging.absolute() / f"blob-{uuid.uuid4().hex}"
        try:
            await self._blobs.place(sha256, archive)
            await asyncio.to_thread(self._validate, archive, f"sha256:{sha256}", "blob")
            return await self._add_validated(name, archive, sha256)
        except FileNotFoundError:  # it was unused for so long that it was deleted at this moment
            raise missing from None
        finally:
            await asyncio.to_thread(archive.unlink, missing_ok=True)

    def _validate(self, archive: Path, filename: str, field: str) -> None:
        size = archive.stat().st_size
        if size > self._max_archive_bytes:
            raise TooLarge(
                f"{field}: {filename!r} has {size} bytes, at most {self._max_archive_bytes} are taken"
            )
        try:
            validate_archive(archive, self._limits)
        except ArchiveError as error:
            raise InvalidInput.of(field, f"{filename!r}: {error.message}") from None

    async def _add_validated(self, name: str, archive: Path, sha256: str) -> tuple[VersionRecord, bool]:
        async with self._blobs.lock.keeping():
            await self._blobs.put(archive, sha256)
            async with self._database.write() as connection:
                known = await catalog.find_upload(connection, name, sha256)
                if known is not None:
                    return known, False
                version = await catalog.add_upload(connection, name, sha256)
        self._aliases.setdefault(name, {})
        return version, True

    async def place_archive(self, version: VersionRecord, path: Path) -> None:
        """Make the uploaded archive readable at `path`; it must not be changed there."""
        await self._blobs.place(version.archive_sha256, path)

    async def place_file(self, file: StoredFile, path: Path, *, plain: bool = False) -> None:
        """Make an artifact's file readable at `path`; it must not be changed. `plain`: no symbolic link."""
        await self._blobs.place(file.sha256, path, plain=plain)

    async def place_artifact(self, version: VersionRecord, folder: Path) -> None:
        """Lay out a version's artifact in `folder`; its files must not be changed. No symbolic links."""
        for name, file in version.files.items():
            path = folder / name
            await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
            await asyncio.to_thread(path.unlink, missing_ok=True)
            await self.place_file(file, path, plain=True)

    async def set_state(
        self, version: VersionRecord, state: VersionState, error: str | None = None
    ) -> VersionRecord:
        """Record the state of the conversion; `finish` records its success. Raises NotFound."""
        async with self._database.write() as connection:
            await catalog.write_state(connection, version, state, error=error)
            return (await catalog.read_versions(connection, version.model, version.version))[0]

    async def finish(self, version: VersionRecord, manifest: Manifest, folder: Path) -> VersionRecord:
        """Store the artifact in `folder`, which our exporter wrote; the version is ready.

        Raises NotFound, InvalidInput (kind), ServerFault (a file is not as the manifest says).
        """
        files = await asyncio.to_thread(_stored_files, manifest, folder)
        async with self._blobs.lock.keeping():
            for path, file in files.items():
                await self._blobs.put(folder / path, file.sha256)
            async with self._database.write() as connection:
                model = await catalog.read_model(connection, version.model)
                if model.kind not in (None, manifest.kind):
                    raise InvalidInput.of(
                        "file",
                        f"holds a model of kind {manifest.kind.value}, but {version.model!r} is of kind "
                        f"{model.kind.value if model.kind else None}: upload it under another name",
                    )
                await catalog.write_state(
                    connection, version, VersionState.READY, manifest=manifest, files=files
                )
                await self.calibrations.add_from(folder, version, connection)
                self._aliases[version.model] = await self._read_aliases(connection, version.model)
                return (await catalog.read_versions(connection, version.model, version.version))[0]

    async def _read_aliases(self, connection: AsyncConnection, name: str) -> dict[str, int]:
        return (await catalog.read_aliases(connection, name)).get(name, {})

    async def delete_version(self, name: str, version: int | str) -> None:
        """Remove it with its aliases and its unshared blobs. Raises NotFound; Conflict while deployed."""
        record = await self.version(name, version)
        await self._delete(name, [record.version])

    async def delete(self, name: str) -> None:
        """Remove a model with all its versions. Raises NotFound; Conflict while one is deployed."""
        await self._delete(name, None)

    async def _delete(self, name: str, numbers: Iterable[int] | None) -> None:
        """Remove the versions in `numbers`; without it all of them, and the model itself."""
        async with self._database.write() as connection:
            await catalog.read_model(connection, name)
            doomed = [
                version
                for version in await catalog.read_versions(connection, name)
                if numbers is None or version.version in numbers
            ]
            await self._refuse_deployed(connection, name, doomed)
            await catalog.delete_versions(connection, name, [version.version for version in doomed])
            if numbers is None:
                await catalog.delete_model(connection, name)
                self._aliases.pop(name, None)
            else:
                self._aliases[name] = await self._read_aliases(connection, name)
        blobs = {version.archive_sha256 for version in doomed}
        blobs |= {file.sha256 for version in doomed for file in version.files.values()}
        await garbage.delete_unreferenced(self._database, self._blobs, blobs)

    async def _refuse_deployed(self, connection: AsyncConnection, name: str, doomed: Versions) -> None:
        deployed = await catalog.deployed_versions(connection, name)
        for version in doomed:
            if version.version in deployed:
                raise Conflict(f"model {name!r} version {version.version} is deployed: undeploy it first")

    async def archive(self, name: str, version: int | str) -> ArchiveDownload:
        """The artifact as a .tar. Raises NotFound; Conflict while the version is not ready."""
        record = await self.version(name, version)
        if record.state is not VersionState.READY:
            raise Conflict(f"model {name!r} version {record.version} is {record.state.value}, not ready")
        return ArchiveDownload(record, self._blobs)


def _check_name(name: str) -> None:
    """Raises InvalidInput."""
    if not MODEL_NAME.fullmatch(name):
        wanted = f"{shown(name)} does not match {MODEL_NAME.pattern}; {model_name(name)!r} would"
        raise InvalidInput.of("name", wanted)


def _stored_files(manifest: Manifest, folder: Path) -> dict[str, StoredFile]:
    """The files of an artifact by their paths. Only the manifest is hashed here.

    The exporter hashed every other file when it wrote it. It is our own process, with the rights of this one,
    so its manifest is trusted. A different size means that the disk has lost bytes since then.
    """
    size, sha256 = hash_file(folder / MANIFEST_FILE)
    files = {MANIFEST_FILE: StoredFile(sha256, size)}
    for entry in manifest.files:
        path = folder / entry.path
        found = path.stat().st_size if path.is_file() else 0
        if found != entry.size:
            raise ServerFault(f"the exporter wrote {entry.size} bytes of {entry.path}, but {found} are there")
        files[entry.path] = StoredFile(entry.sha256, entry.size)
    return files
