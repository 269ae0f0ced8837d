"""Uploads in parts: bytes wait in a file named by their digest until all are there, and become a blob then.

PUT a-b -> <home>/uploads/<sha256>.part grows -> whole, and its digest is right -> blob
                                              -> whole, and its digest is wrong -> removed
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import IO

from api.back.store.blobs import BlobStore
from api.back.store.failures import translated
from api.back.store.records import Received
from api.back.store.sweeping import sweeping
from api.errors import InvalidInput, Overloaded, TooLarge
from export.files import hash_file

FLUSH_BYTES = 1024**2
BUSY_SECONDS = 1.0  # Retry-After while another request sends the same bytes
CROWDED_SECONDS = 60.0  # likewise while there are too many uploads
SWEEP_SECONDS = 600.0  # between two looks for uploads that were given up

logger = logging.getLogger(__name__)


class UploadStore:
    """Unfinished uploads have no owner: only a caller that knows the digest can go on with one, or use it.

    They are bounded in size, in number, and in the time since the last byte came. They are files of a
    folder that the façades of one machine may share. Behind façades of several machines a client goes on from
    what the one that answers has.
    """

    def __init__(
        self, folder: Path, blobs: BlobStore, *, max_bytes: int, max_uploads: int, retention: timedelta
    ) -> None:
        self._folder = folder
        self._blobs = blobs
        self._max_bytes = max_bytes
        self._max_uploads = max_uploads
        self._retention = retention
        self._receiving: set[str] = set()  # digests whose bytes are coming now

    @classmethod
    @asynccontextmanager
    async def open(
        cls, folder: Path, blobs: BlobStore, *, max_bytes: int, max_uploads: int, retention: timedelta
    ) -> AsyncIterator[UploadStore]:
        """Removes uploads that were given up, now and then."""
        store = cls(folder, blobs, max_bytes=max_bytes, max_uploads=max_uploads, retention=retention)
        with translated(folder):
            await asyncio.to_thread(folder.mkdir, exist_ok=True)
        async with sweeping(store.sweep, "unfinished uploads", SWEEP_SECONDS):
            yield store

    async def received(self, sha256: str) -> Received:
        """Raises StoreUnavailable."""
        blob = await self._blobs.find(sha256)
        if blob is not None:
            return Received(blob.size, True)
        return Received(await asyncio.to_thread(_size, self._path(sha256)), False)

    async def receive(
        self, sha256: str, start: int, total: int | None, part: AsyncIterator[bytes]
    ) -> Received:
        """Append a part, which begins at byte `start`; 0 begins anew. `total` None: the part is all there is.

        What came before `part` raised is kept. A part that does not begin where the bytes end is not read.
        Raises InvalidInput (`digest`), TooLarge, Overloaded, StoreUnavailable.
        """
        if total is not None and total > self._max_bytes:
            raise self._too_large()
        with translated(self._folder), self._alone(sha256):
            found = await self.received(sha256)
            if found.stored:
                return found
            if start not in (0, found.size):
                return Received(found.size, False, in_order=False)
            await self._require_room(sha256)
            size = await self._append(sha256, start, total, part)
            if total is not None and size < total:
                return Received(size, False)
            await self._finish(sha256)
        return Received(size, True)

    @asynccontextmanager
    async def _opened(self, sha256: str, start: int) -> AsyncIterator[IO[bytes]]:
        file = await asyncio.to_thread(_open, self._path(sha256), start)
        try:
            yield file
        finally:
            await asyncio.shield(asyncio.to_thread(file.close))

    async def _append(self, sha256: str, start: int, total: int | None, part: AsyncIterator[bytes]) -> int:
        """Returns how many bytes of the blob are here then."""
        size, waiting, num_waiting = start, [], 0
        async with self._opened(sha256, start) as file:
            try:
                async for chunk in part:
                    size += len(chunk)
                    if size > (self._max_bytes if total is None else total):
                        await self._discard(sha256)
                        raise self._too_large() if total is None else _too_long(total)
                    waiting.append(chunk)
                    num_waiting += len(chunk)
                    if num_waiting >= FLUSH_BYTES:
                        await asyncio.to_thread(file.write, b"".join(waiting))
                        waiting, num_waiting = [], 0
            finally:
                await asyncio.shield(asyncio.to_thread(file.write, b"".join(waiting)))
        return size

    async def _finish(self, sha256: str) -> None:
        """The whole file becomes a blob, visible at once."""
        path = self._path(sha256)
        found = (await asyncio.to_thread(hash_file, path))[1]
        if found != sha256:
            await self._discard(sha256)
            raise InvalidInput.of("digest", f"the bytes have sha256:{found}, not sha256:{sha256}")
        async with self._blobs.lock.keeping():
            await self._blobs.put(path, sha256)
        await self._discard(sha256)

    async def _require_room(self, sha256: str) -> None:
        """Raises Overloaded."""
        await self.sweep()
        unfinished = await asyncio.to_thread(self._unfinished)
        others = (unfinished | self._receiving) - {sha256}
        if len(others) >= self._max_uploads:
            raise Overloaded(
                f"{len(others)} uploads are unfinished, the most that are kept (LMAAS_MAX_UPLOADS): finish "
                f"one, or wait: one is given up {self._retention} after its last byte",
                CROWDED_SECONDS,
            )

    @contextmanager
    def _alone(self, sha256: str) -> Iterator[None]:
        """Within it, no other request sends the same bytes, here or to another façade. Raises Overloaded."""
        busy = Overloaded(f"sha256:{sha256} is being sent by another request", BUSY_SECONDS)
        if sha256 in self._receiving:
            raise busy
        self._receiving.add(sha256)
        try:
            with self._path(sha256).open("ab") as file:
                if not _lock(file):
                    raise busy
                try:
                    yield
                finally:
                    _remove_empty(file, self._path(sha256))
        finally:
            self._receiving.discard(sha256)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"an upload has at most {self._max_bytes} bytes (LMAAS_MAX_ARCHIVE_BYTES)")

    async def sweep(self) -> int:
        """Remove those that were given up; returns how many. Raises StoreUnavailable."""
        with translated(self._folder):
            return await asyncio.to_thread(self._remove_old)

    def _remove_old(self) -> int:
        oldest, count = time.time() - self._retention.total_seconds(), 0
        for path in self._folder.glob("*.part"):
            with suppress(FileNotFoundError):
                if path.stem not in self._receiving and path.stat().st_mtime < oldest:
                    path.unlink()
                    logger.info("the upload of sha256:%s was given up", path.stem)
                    count += 1
        return count

    def _unfinished(self) -> set[str]:
        """The digests of those that are here."""
        return {path.stem for path in self._folder.glob("*.part")}

    async def _discard(self, sha256: str) -> None:
        await asyncio.to_thread(self._path(sha256).unlink, missing_ok=True)

    def _path(self, sha256: str) -> Path:
        return self._folder / f"{sha256}.part"


def _too_long(total: int) -> InvalidInput:
    return InvalidInput.of("Content-Range", f"the body goes beyond the {total} bytes that it names")


def _lock(file: IO[bytes]) -> bool:
    """False where another process holds it, or held it and has removed the file since it was opened here."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    os.utime(file.fileno())  # so that no other façade takes it for given up
    return os.fstat(file.fileno()).st_nlink > 0


def _remove_empty(locked: IO[bytes], path: Path) -> None:
    """What was opened for the lock, and got no byte. After a removal, `path` may be another one's file."""
    status = os.fstat(locked.fileno())
    if status.st_nlink and not status.st_size:
        path.unlink()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _open(path: Path, start: int) -> IO[bytes]:
    file = path.open("r+b" if start else "wb")
    file.seek(start)
    return file
