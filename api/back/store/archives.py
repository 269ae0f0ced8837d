"""Download of an artifact as a plain .tar, composed while it is read.

A tar is headers and files in a row, so every size and offset is known beforehand: a range is read without
what precedes it, and nothing is kept on disk. Weights hardly compress, so the archive is not compressed.

    header (512) | file | padding to 512 | header (512) | file | padding | ... | end (1024)
"""

from __future__ import annotations

import bisect
import hashlib
import tarfile
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from api.back.store.blobs import BlobStore
from api.back.store.records import VersionRecord
from runtime.calibration import CALIBRATION_FILE

FORMAT = "tar 1"  # part of the ETag: change it with the bytes
CHUNK = 2 << 20  # bytes that are read at once
TAR_RECORD = 512
MEDIA_TYPE = "application/x-tar"


@dataclass(frozen=True, slots=True)
class _Segment:
    """A part of the tar: literal bytes, or a blob."""

    start: int
    size: int
    literal: bytes
    sha256: str | None = None


class ArchiveDownload:
    """A .tar; the same artifact with the same calibration always gives the same bytes."""

    media_type = MEDIA_TYPE

    def __init__(self, version: VersionRecord, blobs: BlobStore) -> None:
        self.filename = f"{version.model}-{version.version}.tar"
        self._blobs = blobs
        self._segments = _lay_out(version)
        self._starts = [segment.start for segment in self._segments]
        last = self._segments[-1]
        self.size = last.start + last.size
        content = "\n".join(f"{path} {file.sha256}" for path, file in sorted(version.files.items()))
        if version.calibration is not None:
            content += f"\n{version.calibration.to_json()}"
        self.etag = hashlib.sha256(f"{FORMAT}\n{version.model}\n{content}".encode()).hexdigest()

    async def read(self, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to, not including, `end`, in chunks of at most CHUNK bytes."""
        end = self.size if end is None else min(end, self.size)
        while start < end:
            stop = min(end, start + CHUNK)
            yield await self._part(start, stop)
            start = stop

    async def _part(self, start: int, end: int) -> bytes:
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


def _lay_out(version: VersionRecord) -> list[_Segment]:
    """Each file below a folder named as the model, without times or owners; the calibration comes first."""
    segments: list[_Segment] = []
    position = 0

    def append(size: int, literal: bytes = b"", sha256: str | None = None) -> None:
        nonlocal position
        if size:  # an empty segment would hide the one that starts at the same place
            segments.append(_Segment(position, size, literal, sha256))
            position += size

    def append_file(path: str, size: int, literal: bytes = b"", sha256: str | None = None) -> None:
        entry = tarfile.TarInfo(f"{version.model}/{path}")
        entry.size, entry.mode = size, 0o644
        header = entry.tobuf(tarfile.GNU_FORMAT)
        append(len(header), header)
        append(size, literal, sha256)
        padding = -size % TAR_RECORD
        append(padding, bytes(padding))

    if version.calibration is not None:
        text = version.calibration.to_json().encode()
        append_file(CALIBRATION_FILE, len(text), text)
    for path, file in sorted(version.files.items()):
        append_file(path, file.size, sha256=file.sha256)
    append(2 * TAR_RECORD, bytes(2 * TAR_RECORD))
    return segments
