"""The members of a .tar, .tar.gz, .tar.zst or .zip archive, read one after the other within limits.

No header makes a reader allocate, unpack or seek more than the limits allow.
"""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from export.errors import ArchiveError
from export.tar import Kind, Stream, read_tar

CHUNK_BYTES = 1 << 20
# NotImplementedError: a method of zip that zipfile lacks.
_READ_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, NotImplementedError)
_HEADER_BYTES = 4096  # allowed per member beside its content: headers, padding, directory entry
_PACKED_BYTES = 1 << 16  # read at once from a gzip file
# Streams in one gzip file; each takes some time. bgzip starts a stream for every 64 KiB.
_MAX_GZIP_STREAMS = 1 << 18
# Weights hardly compress, and text to about a fifth. A bomb of fewer unpacked bytes than this does no harm.
_HARMLESS_BYTES = 64 << 20
_MAX_RATIO = 100  # unpacked bytes per byte of the archive
_ZSTANDARD = b"\x28\xb5\x2f\xfd"
_OTHERS = {b"\xfd7zX": "xz", b"BZh9": "bzip2", b"7z\xbc\xaf": "7-Zip", b"Rar!": "RAR"}
_MAX_WINDOW_BYTES = 128 << 20  # of zstd's memory: that of `zstd --long`
# With other methods, zipfile unpacks a whole block at once or allocates what a header asks for.
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    max_members: int = 1000
    max_unpacked_bytes: int = 8 << 30
    max_depth: int = 8  # parts of a file's path
    max_name_bytes: int = 512


@dataclass(frozen=True, slots=True)
class Member:
    name: str
    path: PurePosixPath
    is_folder: bool
    size: int  # as the header declares it; the real size may differ
    data: Stream


@contextmanager
def open_members(path: Path, limits: ArchiveLimits) -> Iterator[Iterator[Member]]:
    """Open an archive; its content decides the format. Every reading error becomes an ArchiveError."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            if not start:
                raise ArchiveError("archive: an empty file", field="file")
            if start[:2] == b"PK":
                with _ZipSource(path, limits) as source, zipfile.ZipFile(source) as archive:
                    yield _zip_members(archive, path.stat().st_size, limits)
            elif start[:2] == b"\x1f\x8b" or start == _ZSTANDARD:
                room = Room(path, limits, with_headers=True)
                stream = _Gunzip(file, room) if start != _ZSTANDARD else _Unzstd(file, room)
                yield _tar_members(stream)
                stream.drain()
            elif start in _OTHERS:
                why = f"packed by {_OTHERS[start]}; only gzip, zstd and zip are read: pack it again"
                raise ArchiveError(f"archive: {why}", field="file")
            else:
                yield _tar_members(file)
    except _READ_ERRORS as error:
        raise _unsound(error) from None


class _ZipSource(io.FileIO):
    """A zip file with a limit for its directory, which zipfile reads into memory at once."""

    def __init__(self, path: Path, limits: ArchiveLimits) -> None:
        super().__init__(path)
        self._size = path.stat().st_size
        self._most = max(CHUNK_BYTES, limits.max_members * _HEADER_BYTES)

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            size = max(0, self._size - self.tell())
        if size > self._most:
            raise ArchiveError(
                f"archive: a zip directory of {size} bytes, but at most {self._most} are read", field="file"
            )
        return super().read(size) or b""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        # A header can contain any offset; seeking there would raise an OSError.
        if whence == io.SEEK_SET and not 0 <= offset <= self._size:
            raise zipfile.BadZipFile(f"byte {offset} of {self._size}")
        return super().seek(offset, whence)


class Room:
    """The bytes that an archive may still unpack to."""

    def __init__(self, path: Path, limits: ArchiveLimits, *, with_headers: bool = False) -> None:
        self._size = path.stat().st_size
        self._limits = limits
        self._most = min(limits.max_unpacked_bytes, max(_HARMLESS_BYTES, _MAX_RATIO * self._size))
        self._left = self._most + with_headers * (limits.max_members + 16) * _HEADER_BYTES

    def take(self, size: int) -> None:
        self.require(size)
        self._left -= size

    def require(self, size: int) -> None:
        """Raise ArchiveError if fewer than `size` bytes are left."""
        if size <= self._left:
            return
        if self._most < self._limits.max_unpacked_bytes:
            why = f"{self._most} bytes, too many for an archive of {self._size}"
        else:
            why = f"the limit of {self._most} bytes"
        raise ArchiveError(f"archive: unpacks to more than {why}", field="file")


class _Gunzip:
    """Unpacks a gzip file of one or more streams (RFC 1952) within `room`.

    `gzip.GzipFile` has no limits: it takes microseconds for each byte of a stored name and for each stream.
    """

    def __init__(self, file: IO[bytes], room: Room) -> None:
        self._file = file
        self._room = room
        self._packed = b""
        self._streams = 0
        self._begin_stream()

    def read(self, size: int, /) -> bytes:
        """Returns `size` bytes, and fewer only at the end, after all checksums were right."""
        parts = []
        while size and (part := self._read_some(size)):
            self._room.take(len(part))
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def drain(self) -> None:
        while self.read(CHUNK_BYTES):
            pass

    def _read_some(self, size: int) -> bytes:
        """Returns at least one byte, or nothing at the end."""
        while True:
            if self._inflater.eof:
                # Tape tools pad a file with zeros to a whole block.
                self._packed = self._inflater.unused_data.lstrip(b"\0")
                while not self._packed and (padding := self._file.read(_PACKED_BYTES)):
                    self._packed = padding.lstrip(b"\0")
                if not self._packed:
                    return b""
                self._begin_stream()
            packed = self._packed or self._file.read(_PACKED_BYTES)
            part = self._inflater.decompress(packed, size)
            self._packed = self._inflater.unconsumed_tail
            if part:
                return part
            if not packed and not self._inflater.eof:
                raise EOFError("the gzip stream is cut off before its end")

    def _begin_stream(self) -> None:
        self._streams += 1
        if self._streams > _MAX_GZIP_STREAMS:
            raise ArchiveError(f"archive: more than {_MAX_GZIP_STREAMS} gzip streams", field="file")
        self._inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)  # 16 asks for gzip's header and trailer


class _Unzstd:
    """Unpacks a zstd file (RFC 8878) within `room`."""

    def __init__(self, file: IO[bytes], room: Room) -> None:
        import zstandard

        self._error = zstandard.ZstdError
        unpacker = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
        self._reader = unpacker.stream_reader(file, read_across_frames=True)
        self._room = room

    def read(self, size: int, /) -> bytes:
        """Returns `size` bytes, and fewer only at the end."""
        parts = []
        try:
            while size and (part := self._reader.read(min(size, CHUNK_BYTES))):
                self._room.take(len(part))
                parts.append(part)
                size -= len(part)
        except self._error as error:
            raise ValueError(str(error)) from None
        return b"".join(parts)

    def drain(self) -> None:
        while self.read(CHUNK_BYTES):
            pass


def _tar_members(stream: Stream) -> Iterator[Member]:
    for member in read_tar(stream):
        if member.kind not in (Kind.FILE, Kind.FOLDER):
            raise refused(member.name, member.kind.value)
        is_folder = member.kind is Kind.FOLDER
        yield Member(member.name, PurePosixPath(member.name), is_folder, member.size, member.data)


def _zip_members(archive: zipfile.ZipFile, size: int, limits: ArchiveLimits) -> Iterator[Member]:
    if len(archive.infolist()) > limits.max_members:
        raise ArchiveError(f"archive: more than {limits.max_members} members", field="file")
    # Overlapping members can unpack to far more bytes than the archive has.
    packed = sum(info.compress_size for info in archive.infolist())
    if packed > size:
        raise ArchiveError(f"archive: members of {packed} bytes in a zip of {size}", field="file")
    for info in archive.infolist():
        mode = info.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise refused(info.filename, "a link" if stat.S_ISLNK(mode) else "a device or other special file")
        if info.flag_bits & 1:
            raise refused(info.filename, "encrypted")
        if info.compress_type not in _ZIP_METHODS:
            raise refused(
                info.filename, f"packed by method {info.compress_type}; only stored and deflated are read"
            )
        name = info.filename.replace("\\", "/")  # as PowerShell's Compress-Archive writes them
        if name.endswith("/"):
            yield Member(name, PurePosixPath(name), True, 0, io.BytesIO())
        else:
            with archive.open(info) as data:
                yield Member(name, PurePosixPath(name), False, info.file_size, data)


def refused(name: str, why: str) -> ArchiveError:
    shown = escaped(name)
    return ArchiveError(f"archive member {shown!r}: {why}", field=shown)


def escaped(name: str) -> str:
    return name.encode("unicode_escape", "replace").decode()[:200]


def _unsound(error: Exception) -> ArchiveError:
    what = escaped(str(error) or type(error).__name__)[:120]
    return ArchiveError(
        f"archive: not a sound .tar, .tar.gz, .tar.zst or .zip archive ({what})", field="file"
    )
