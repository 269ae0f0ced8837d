"""Files named by their sha256, so that the same bytes lie there once."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import obstore
from obstore.store import LocalStore, ObjectStore, from_url

from api.back.store.records import StoredFile

CHUNK = 4 * 1024 * 1024  # bytes


class BlobStore:
    """Who adds a reference holds `exclusive` from before `put` until it is written; so does who deletes one.

    Otherwise a blob could go between being found there and being referred to.
    obstore's own coroutines are left alone: one that ends shortly before the interpreter does can abort it.
    """

    def __init__(self, store: ObjectStore, folder: Path | None) -> None:
        self._store = store
        self._folder = folder  # where the blobs lie as plain files, if they do
        self.exclusive = asyncio.Lock()

    @classmethod
    def open(cls, folder: Path, url: str | None) -> BlobStore:
        """`url` names an object store (`s3://bucket/prefix`); without one the blobs lie in `folder`."""
        if url is not None:
            return cls(from_url(url), None)
        folder.mkdir(parents=True, exist_ok=True)
        return cls(LocalStore(folder.absolute()), folder.absolute())

    @property
    def shared(self) -> bool:
        """Whether other installations may keep blobs here too."""
        return self._folder is None

    async def put(self, path: Path, sha256: str) -> None:
        """Copy a file in, unless its bytes are there already."""
        if not await self.holds(sha256):
            await asyncio.to_thread(obstore.put, self._store, _key(sha256), path)

    async def holds(self, sha256: str) -> bool:
        try:
            await asyncio.to_thread(obstore.head, self._store, _key(sha256))
        except FileNotFoundError:
            return False
        return True

    async def read(self, sha256: str, start: int, end: int) -> bytes:
        """The bytes from `start` up to, not including, `end`."""
        if start == end:
            return b""
        content = await asyncio.to_thread(obstore.get_range, self._store, _key(sha256), start=start, end=end)
        return bytes(content)

    async def place(self, sha256: str, path: Path, *, plain: bool = False) -> None:
        """Lay the blob at `path`, a file that nobody may change: a symbolic link where the blob is a file.

        A hard link changes the blob's ctime, and Triton takes that for a change of every version that has it.
        `plain` makes one all the same, for readers that follow no link out of the folder.
        """
        if self._folder is None:
            await asyncio.to_thread(self._download, sha256, path)
        else:
            link = _link_or_copy if plain else Path.symlink_to
            await asyncio.to_thread(link, path, self._folder / _key(sha256))

    async def delete(self, sha256s: Iterable[str]) -> None:
        """Those that are gone already are passed over: a crash may have come between blob and records."""
        for sha256 in sha256s:
            with suppress(FileNotFoundError):
                await asyncio.to_thread(obstore.delete, self._store, _key(sha256))

    async def all(self) -> list[str]:
        """The sha256 of every blob."""
        return await asyncio.to_thread(self._all)

    def _all(self) -> list[str]:
        return [item["path"].rpartition("/")[2] for page in obstore.list(self._store) for item in page]

    def _download(self, sha256: str, path: Path) -> None:
        with path.open("wb") as file:
            for chunk in obstore.get(self._store, _key(sha256)).stream(min_chunk_size=CHUNK):
                file.write(chunk)


def _link_or_copy(path: Path, blob: Path) -> None:
    """A blob that another version has a link to is copied, so that Triton leaves that version alone."""
    try:
        linked = blob.stat().st_nlink == 1
        if linked:
            path.hardlink_to(blob)
    except OSError:  # another file system, or one without links
        linked = False
    if not linked:
        shutil.copyfile(blob, path)


def hash_file(path: Path) -> StoredFile:
    """Blocking: call it in a thread."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return StoredFile(digest.hexdigest(), size)


def _key(sha256: str) -> str:
    return f"{sha256[:2]}/{sha256}"
