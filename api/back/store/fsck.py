"""Check of the store: every record's files are there, with their sizes and digests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import select

from api.back.store import catalog
from api.back.store.blobs import Blob, BlobStore
from api.back.store.database import Database
from api.back.store.records import StoredFile, VersionRecord, VersionState
from api.back.store.tables import caller_files, deployments
from runtime.manifest import MANIFEST_FILE


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong."""

    record: str  # which one is affected: `tiny version 2`
    problem: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Report:
    num_records: int
    num_blobs: int  # that are there
    num_bytes: int
    num_unreferenced: int  # of the blobs; no fault
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class _Reference:
    record: str
    name: str  # of the file
    sha256: str
    size: int | None  # None: the record does not say
    remedy: str


async def check(database: Database, blobs: BlobStore, *, contents: bool = True) -> Report:
    """`contents` reads and hashes every blob that is referred to. Safe while others serve.

    Raises StoreUnavailable.
    """
    async with blobs.lock.keeping():
        async with database.read() as connection:
            records = [
                version
                for model in await catalog.read_models(connection)
                for version in await catalog.read_versions(connection, model.name)
            ]
            files = (await connection.execute(select(caller_files))).all()
            served = {
                (row.model, row.version, row.id) for row in await connection.execute(select(deployments))
            }
        references = [reference for version in records for reference in _of_version(version)]
        references += [
            _Reference(
                f"file {row.id}", row.filename, row.sha256, row.size, "delete the file, and send it again"
            )
            for row in files
        ]
        there = {blob.sha256: blob for blob in await blobs.all()}
        wrong = await _wrong_digests(blobs, there, references) if contents else set()
        findings = [finding for version in records for finding in _of_record(version)]
        findings += _of_deployments(records, served)
        findings += _of_blobs(references, there, wrong)
    used = {reference.sha256 for reference in references}
    return Report(
        num_records=len(records) + len(files),
        num_blobs=len(there),
        num_bytes=sum(blob.size for blob in there.values()),
        num_unreferenced=len(there.keys() - used),
        findings=tuple(findings),
    )


def _of_version(version: VersionRecord) -> Iterator[_Reference]:
    record = f"{version.model} version {version.version}"
    again = "upload the same archive under the same name again"
    yield _Reference(record, "the uploaded archive", version.archive_sha256, None, again)
    anew = f"`lmaas models rm {version.model} --version {version.version}`, and upload it again"
    for path, file in version.files.items():
        yield _Reference(record, path, file.sha256, file.size, anew)


def _of_record(version: VersionRecord) -> Iterator[Finding]:
    """Whether the rows of a version agree with its manifest."""
    record = f"{version.model} version {version.version}"
    remedy = f"`lmaas models rm {version.model} --version {version.version}`, and upload it again"
    if version.manifest is None:
        if version.state is VersionState.READY:
            yield Finding(record, "it is ready, but has no manifest", remedy)
        return
    expected = {entry.path: StoredFile(entry.sha256, entry.size) for entry in version.manifest.files}
    found = {path: file for path, file in version.files.items() if path != MANIFEST_FILE}
    for path in sorted(expected.keys() | found.keys()):
        if expected.get(path) != found.get(path):
            yield Finding(record, f"the rows of {path} are not as its manifest says", remedy)


def _of_deployments(records: list[VersionRecord], served: set[tuple[str, int, str]]) -> Iterator[Finding]:
    ready = {(item.model, item.version) for item in records if item.state is VersionState.READY}
    for model, version, number in sorted(served):
        if (model, version) not in ready:
            yield Finding(
                f"deployment {number}",
                f"{model} version {version} is not ready",
                f"`lmaas undeploy {number}`",
            )


async def _wrong_digests(blobs: BlobStore, there: dict[str, Blob], references: list[_Reference]) -> set[str]:
    used = sorted({reference.sha256 for reference in references} & there.keys())
    return {sha256 for sha256 in used if await blobs.digest(there[sha256]) != sha256}


def _of_blobs(references: list[_Reference], there: dict[str, Blob], wrong: set[str]) -> Iterator[Finding]:
    for item in references:
        blob = there.get(item.sha256)
        if blob is None:
            yield Finding(item.record, f"{item.name} is missing: blob {item.sha256}", item.remedy)
        elif item.size not in (None, blob.size):
            problem = f"{item.name} has {blob.size} bytes, not {item.size}: blob {item.sha256}"
            yield Finding(item.record, problem, item.remedy)
        elif item.sha256 in wrong:
            yield Finding(item.record, f"{item.name} has other bytes: blob {item.sha256}", item.remedy)
