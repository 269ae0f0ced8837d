"""Files named by their sha256, so that the same bytes are stored once."""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import obstore
from obstore.store import ObjectStore

from api.back.store.blob_lock import BlobLock
from api.back.store.failures import report, translated
from api.back.store.object_store import open_objects
from api.errors import ServerFault, StoreUnavailable

CHUNK = 4 * 1024 * 1024  # bytes that are asked for at once
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Blob:
    """What lies in the store."""

    sha256: str
    size: int  # bytes
    modified: datetime


class BlobStore:
    """Hold `lock.keeping` from before `put` until the reference is written, `lock.deleting` around `delete`.

    Otherwise a blob could be deleted after `put` found it and before the new reference is written.
    obstore's own coroutines are not used: one that ends shortly before the interpreter does can abort it.
    Every method raises StoreUnavailable (or its subclass StoreFull) where blobs cannot be read or written.
    """

    def __init__(self, store: ObjectStore, folder: Path | None, where: Path | str, lock: BlobLock) -> None:
        self._store = store
        self._folder = folder  # of the blobs where they are plain files; None in a bucket
        self._where = where
        self.lock = lock

    @classmethod
    def open(cls, folder: Path, url: str | None, lock: BlobLock) -> BlobStore:
        """Raises as `open_objects`. Blocking."""
        store, place = open_objects(folder, url)
        return cls(store, place, place or url or folder, lock)

    async def put(self, path: Path, sha256: str) -> None:
        """Copy a file in, unless its bytes are there already; a blob of another size is replaced."""
        size = (await asyncio.to_thread(path.stat)).st_size
        found = await self.find(sha256)
        if found is not None and found.size == size:
            return
        with translated(self._where):
            try:
                await asyncio.to_thread(obstore.put, self._store, _key(sha256), path)
            except FileNotFoundError as error:
                raise report(StoreUnavailable(f"the blob store is gone: {self._where}")) from error

    async def find(self, sha256: str) -> Blob | None:
        with translated(self._where):
            try:
                item = await asyncio.to_thread(obstore.head, self._store, _key(sha256))
            except FileNotFoundError:
                return None
        return Blob(sha256, item["size"], item["last_modified"])

    async def read(self, sha256: str, start: int, end: int) -> bytes:
        """The bytes from `start` up to, not including, `end`. Raises ServerFault: it is missing."""
        if start == end:
            return b""
        with translated(self._where):
            return await asyncio.to_thread(self._range, sha256, start, end)

    async def place(self, sha256: str, path: Path, *, plain: bool = False) -> None:
        """Make the blob readable at `path`: as a symbolic link where it is a file. It must not be changed.

        A hard link changes the blob's ctime, and Triton takes that for a change of every version that has it.
        `plain` makes a hard link nevertheless, for readers that follow no symbolic link out of the folder.
        What comes from a bucket is compared with its digest. Raises ServerFault: missing, or damaged.
        """
        with translated(self._where):
            if self._folder is None:
                await asyncio.to_thread(self._download, sha256, path)
            else:
                link = _link_or_copy if plain else Path.symlink_to
                await asyncio.to_thread(link, path, self._folder / _key(sha256))

    async def digest(self, blob: Blob) -> str:
        """The sha256 of what is there; reads all of it."""
        total = hashlib.sha256()
        for start in range(0, blob.size, CHUNK):
            chunk = await self.read(blob.sha256, start, min(start + CHUNK, blob.size))
            await asyncio.to_thread(total.update, chunk)
        return total.hexdigest()

    async def delete(self, sha256s: Iterable[str]) -> None:
        """Missing blobs are no error: a crash may have happened between deleting blobs and records."""
        for sha256 in sha256s:
            with translated(self._where), suppress(FileNotFoundError):
                await asyncio.to_thread(obstore.delete, self._store, _key(sha256))

    async def all(self) -> list[Blob]:
        """Every blob; what has another name is not ours, and left out."""
        with translated(self._where):
            return await asyncio.to_thread(self._all)

    def _all(self) -> list[Blob]:
        found = []
        for item in (item for page in obstore.list(self._store) for item in page):
            sha256 = item["path"].rpartition("/")[2]
            if item["path"] == _key(sha256) and SHA256.fullmatch(sha256):
                found.append(Blob(sha256, item["size"], item["last_modified"]))
        return found

    def _range(self, sha256: str, start: int, end: int) -> bytes:
        try:
            return bytes(obstore.get_range(self._store, _key(sha256), start=start, end=end))
        except FileNotFoundError:
            raise self._missing(sha256) from None

    def _download(self, sha256: str, path: Path) -> None:
        total = hashlib.sha256()
        try:
            size = obstore.head(self._store, _key(sha256))["size"]
        except FileNotFoundError:
            raise self._missing(sha256) from None
        with path.open("wb") as file:
            for start in range(0, size, CHUNK):
                chunk = self._range(sha256, start, min(start + CHUNK, size))
                file.write(chunk)
                total.update(chunk)
        if total.hexdigest() != sha256:
            raise ServerFault(
                f"the blob {sha256} is damaged in {self._where}: `lmaas store fsck` says what uses it"
            )

    def _missing(self, sha256: str) -> ServerFault:
        return ServerFault(
            f"the blob {sha256} is missing from {self._where}: `lmaas store fsck` says what uses it"
        )


def _link_or_copy(path: Path, blob: Path) -> None:
    """Copy a blob that another version links to: a second hard link would make Triton reload that version."""
    try:
        linked = blob.stat().st_nlink == 1
        if linked:
            path.hardlink_to(blob)
    except OSError:  # another file system, or one without hard links
        linked = False
    if not linked:
        shutil.copyfile(blob, path)


def _key(sha256: str) -> str:
    return f"{sha256[:2]}/{sha256}"
