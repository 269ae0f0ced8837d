"""Download of an artifact as .tar.gz, made while it is read.

The gzip stream uses stored (uncompressed) blocks, RFC 1951 section 3.2.4: weights hardly compress, and so
every size and offset is known beforehand, a range can be read without what precedes it, and nothing is kept
on disk.

    gzip header (10) | 5 + 65535 | 5 + 65535 | ... | 5 + rest | CRC-32 and size of the tar (8)
"""

from __future__ import annotations

import bisect
import hashlib
import struct
import tarfile
import zlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from api.back.store.blobs import BlobStore
from api.back.store.records import VersionRecord

FORMAT = "tar.gz stored 1"  # part of the ETag: change it with the bytes
GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # deflate, no name, no time, any system
BLOCK = 65535  # payload of a stored block, bytes
FRAME = 5  # its header
TRAILER = 8
BLOCKS_AT_ONCE = 32  # some 2 MiB
TAR_RECORD = 512


@dataclass(frozen=True, slots=True)
class _Segment:
    """A run of the tar: literal bytes, or a blob."""

    start: int
    size: int
    literal: bytes
    sha256: str | None = None


class ArchiveDownload:
    """A .tar.gz; the same artifact always gives the same bytes."""

    def __init__(self, version: VersionRecord, blobs: BlobStore) -> None:
        self.filename = f"{version.model}-{version.version}.tar.gz"
        self._blobs = blobs
        self._segments = _lay_out(version)
        self._starts = [segment.start for segment in self._segments]
        last = self._segments[-1]
        self._tar_size = last.start + last.size
        self._num_blocks = -(-self._tar_size // BLOCK)
        self.size = len(GZIP_HEADER) + self._num_blocks * FRAME + self._tar_size + TRAILER
        content = "\n".join(f"{path} {file.sha256}" for path, file in sorted(version.files.items()))
        self.etag = hashlib.sha256(f"{FORMAT}\n{version.model}\n{content}".encode()).hexdigest()

    async def read(self, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to, not including, `end`, in chunks of some MiB.

        A range that begins late and takes in the trailer reads the whole artifact once, for the checksum.
        """
        end = self.size if end is None else min(end, self.size)
        position = 0
        checksum: int | None = 0  # of the tar up to `position`, while all of it was read
        if start < len(GZIP_HEADER) and start < end:
            yield GZIP_HEADER[start:end]
        position = len(GZIP_HEADER)
        for first in range(0, self._num_blocks, BLOCKS_AT_ONCE):
            last = min(first + BLOCKS_AT_ONCE, self._num_blocks)
            size = (last - first) * FRAME + min(last * BLOCK, self._tar_size) - first * BLOCK
            if position + size <= start or position >= end:
                checksum = None
            else:
                payload = await self._tar(first * BLOCK, min(last * BLOCK, self._tar_size))
                checksum = None if checksum is None else zlib.crc32(payload, checksum)
                yield self._frame(payload, first)[max(start - position, 0) : end - position]
            position += size
        if start < end and end > position:
            if checksum is None:
                checksum = await self._checksum()
            trailer = struct.pack("<II", checksum, self._tar_size % 2**32)
            yield trailer[max(start - position, 0) : end - position]

    def _frame(self, payload: bytes, first: int) -> bytes:
        """Cut `payload` into stored blocks, the first of which is number `first` of the stream."""
        parts = []
        for offset in range(0, len(payload), BLOCK):
            piece = payload[offset : offset + BLOCK]
            final = first + offset // BLOCK == self._num_blocks - 1
            parts += [struct.pack("<BHH", final, len(piece), len(piece) ^ 0xFFFF), piece]
        return b"".join(parts)

    async def _tar(self, start: int, end: int) -> bytes:
        parts = []
        index = bisect.bisect_right(self._starts, start) - 1
        while start < end:
            segment = self._segments[index]
            stop = min(end, segment.start + segment.size)
            low, high = start - segment.start, stop - segment.start
            if segment.sha256 is None:
                parts.append(segment.literal[low:high])
            else:
                parts.append(await self._blobs.read(segment.sha256, low, high))
            start = stop
            index += 1
        return b"".join(parts)

    async def _checksum(self) -> int:
        checksum = 0
        step = BLOCK * BLOCKS_AT_ONCE
        for start in range(0, self._tar_size, step):
            checksum = zlib.crc32(await self._tar(start, min(start + step, self._tar_size)), checksum)
        return checksum


def _lay_out(version: VersionRecord) -> list[_Segment]:
    """The tar: each file below a folder named as the model, without times or owners."""
    segments: list[_Segment] = []
    position = 0

    def append(size: int, literal: bytes = b"", sha256: str | None = None) -> None:
        nonlocal position
        if size:  # an empty segment would hide the one that starts at the same place
            segments.append(_Segment(position, size, literal, sha256))
            position += size

    for path, file in sorted(version.files.items()):
        entry = tarfile.TarInfo(f"{version.model}/{path}")
        entry.size, entry.mode = file.size, 0o644
        header = entry.tobuf(tarfile.GNU_FORMAT)
        append(len(header), header)
        append(file.size, sha256=file.sha256)
        padding = -file.size % TAR_RECORD
        append(padding, bytes(padding))
    append(2 * TAR_RECORD, bytes(2 * TAR_RECORD))
    return segments
