"""Archives of checkpoints and artifacts: vetted member by member, by content and not by name.

Nothing of an archive reaches the disk before its member passed. Standard library only.
"""

from __future__ import annotations

import gzip
import io
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from export.errors import ArchiveError
from export.reading import CONVERT_LINE, PICKLE_NAMES

CHECKPOINT_MARK = "config.json"
ARTIFACT_MARK = "manifest.json"
_CHUNK_BYTES = 1 << 20
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
# Protocol 2 and later begin with PROTO and the number; torch.save writes a zip around such a stream.
_PICKLE_STARTS = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
# NotImplementedError: a method of zip that zipfile lacks. RecursionError: tarfile nests as headers follow.
_READ_ERRORS = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, struct.error, EOFError),
    *(ValueError, NotImplementedError, RecursionError),
)
_MAX_TAR_HEADER_BYTES = 1 << 16
_MAX_PART_BYTES = 255  # of a file's or folder's own name, on Linux
_HEADER_BYTES = 4096  # that a member may take beside its content: headers, padding, its entry in a directory
_TAR_HEADERS = (*b"xgXLK",)  # types of tar headers that describe the member after them
# Weights hardly shrink, and texts to a fifth. Below the first figure a bomb does no harm.
_HARMLESS_BYTES = 64 << 20
_MAX_RATIO = 100  # unpacked bytes for each of the archive
# Of the other methods zipfile unpacks a block at once, however large, or reserves what a header asks for.
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    max_members: int = 1000
    max_unpacked_bytes: int = 8 << 30
    max_depth: int = 8  # folders above a file, its own name included
    max_name_bytes: int = 512


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    path: PurePosixPath
    is_folder: bool
    size: int  # as it is declared; the real one may be anything
    data: IO[bytes]


def vet_archive(path: Path, limits: ArchiveLimits | None = None) -> None:
    """Read the whole archive without unpacking it; raises ArchiveError naming the member that is refused."""
    _walk(path, None, limits or ArchiveLimits())


def unpack_archive(path: Path, into: Path, limits: ArchiveLimits | None = None) -> Path:
    """Unpack below the existing folder `into`, vetting as it goes; returns the checkpoint's folder.

    Raises ArchiveError; what was written until then is the caller's to remove with `into`.
    """
    return into / _walk(path, into, limits or ArchiveLimits())


def pack_folder(folder: Path, archive: Path) -> None:
    """Write the files of `folder` as .tar.gz; the same files give the same bytes."""
    # gzip would store the time and the file's own name.
    with (
        archive.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=1) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            member = tarfile.TarInfo(path.relative_to(folder).as_posix())
            member.size = path.stat().st_size
            member.mode = 0o644
            with path.open("rb") as file:
                tar.addfile(member, file)


def _walk(path: Path, into: Path | None, limits: ArchiveLimits) -> str:
    """The folder within that holds config.json or manifest.json; "" for the archive itself."""
    seen: dict[str, bool] = {}  # name -> is a folder
    room = _Room(path, limits)
    with _members(path, limits) as members:
        for count, member in enumerate(members, start=1):
            if count > limits.max_members:
                raise ArchiveError(f"archive: more than {limits.max_members} members", field="file")
            _check_path(member, seen, limits)
            seen |= dict.fromkeys(map(str, member.path.parents), True)
            seen[str(member.path)] = member.is_folder
            if not member.is_folder:
                _copy(member, into, room)
            elif into is not None:
                into.joinpath(member.path).mkdir(parents=True, exist_ok=True)
    return _find_root([name for name, is_folder in seen.items() if not is_folder])


@contextmanager
def _members(path: Path, limits: ArchiveLimits) -> Iterator[Iterator[_Member]]:
    """Open by content; every way in which reading can fail becomes an ArchiveError."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            if not start:
                raise ArchiveError("archive: an empty file", field="file")
            if start[:2] == b"PK":
                with _ZipSource(path, limits) as source, zipfile.ZipFile(source) as archive:
                    yield _zip_members(archive, path.stat().st_size, limits)
            elif start[:2] == b"\x1f\x8b":
                bounded = _Bounded(gzip.GzipFile(fileobj=file), _Room(path, limits, with_headers=True))
                with tarfile.open(fileobj=bounded, mode="r|", tarinfo=_Header) as tar:
                    yield _tar_members(tar)
                bounded.drain()
            else:
                with tarfile.open(fileobj=file, mode="r|", tarinfo=_Header) as tar:
                    yield _tar_members(tar)
    except _READ_ERRORS as error:
        raise _unsound(error) from None
    except OSError as error:
        # gzip and tarfile raise it bare for bad content; a number means the machine, a full disk for one.
        if error.errno is not None:
            raise
        raise _unsound(error) from None


class _ZipSource(io.FileIO):
    """A zip file whose directory, which zipfile reads into memory at once, is bounded."""

    def __init__(self, path: Path, limits: ArchiveLimits) -> None:
        super().__init__(path)
        self._size = path.stat().st_size
        self._most = max(_CHUNK_BYTES, limits.max_members * _HEADER_BYTES)

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > self._most:
            raise ArchiveError(
                f"archive: a zip directory of {size} bytes, but at most {self._most} are read", field="file"
            )
        return super().read(size) or b""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        # Headers can ask for any place, which the system would call an error of its own.
        if whence == io.SEEK_SET and not 0 <= offset <= self._size:
            raise zipfile.BadZipFile(f"byte {offset} of {self._size}")
        return super().seek(offset, whence)


class _Room:
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
        """Raise ArchiveError where there is less room."""
        if size <= self._left:
            return
        if self._most < self._limits.max_unpacked_bytes:
            why = f"{self._most} bytes, too many for an archive of {self._size}"
        else:
            why = f"the limit of {self._most} bytes"
        raise ArchiveError(f"archive: unpacks to more than {why}", field="file")


class _Bounded(io.RawIOBase):
    """A decompressed stream that ends in an error beyond the limit, whatever tar headers declare."""

    def __init__(self, stream: gzip.GzipFile, room: _Room) -> None:
        self._stream = stream
        self._room = room

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._room.take(len(data))
        return data

    def drain(self) -> None:
        """Read to the end, where gzip's checksum is compared."""
        while self.read(_CHUNK_BYTES):
            pass


class _Header(tarfile.TarInfo):
    """A tar header: damaged ones are refused, and those that tarfile would read into memory are bounded."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # the block of zeros that ends every archive
            # tarfile takes a damaged header for the end too, and members would silently be missing.
            raise _unsound(error) from None
        if header.type[0] in _TAR_HEADERS and header.size > _MAX_TAR_HEADER_BYTES:
            raise ArchiveError(
                f"archive: a tar header of {header.size} bytes, but at most {_MAX_TAR_HEADER_BYTES} are read",
                field="file",
            )
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise _refused(header.name, "a sparse file")
        return header

    # tarfile reads this map into memory before the member is seen, as many numbers as its first says.
    def _proc_gnusparse_10(self, *_: object) -> None:
        raise ArchiveError("archive: a sparse file", field="file")


def _tar_members(tar: tarfile.TarFile) -> Iterator[_Member]:
    for info in tar:
        if info.issym() or info.islnk():
            raise _refused(info.name, "a link")
        if not info.isdir() and not info.isreg():
            raise _refused(info.name, "a device, pipe or other special file")
        data = tar.extractfile(info) if info.isreg() else None
        yield _Member(info.name, PurePosixPath(info.name), info.isdir(), info.size, data or io.BytesIO())


def _zip_members(archive: zipfile.ZipFile, size: int, limits: ArchiveLimits) -> Iterator[_Member]:
    if len(archive.infolist()) > limits.max_members:
        raise ArchiveError(f"archive: more than {limits.max_members} members", field="file")
    # Members that lie over each other unpack to far more than there is.
    packed = sum(info.compress_size for info in archive.infolist())
    if packed > size:
        raise ArchiveError(f"archive: members of {packed} bytes in a zip of {size}", field="file")
    for info in archive.infolist():
        mode = info.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refused(
                info.filename, "a link" if stat.S_ISLNK(mode) else "a device or other special file"
            )
        if info.flag_bits & 1:
            raise _refused(info.filename, "encrypted")
        if info.compress_type not in _ZIP_METHODS:
            raise _refused(
                info.filename, f"packed by method {info.compress_type}; only stored and deflated are read"
            )
        if info.filename.endswith("/"):
            yield _Member(info.filename, PurePosixPath(info.filename), True, 0, io.BytesIO())
        else:
            with archive.open(info) as data:
                yield _Member(info.filename, PurePosixPath(info.filename), False, info.file_size, data)


def _check_path(member: _Member, seen: dict[str, bool], limits: ArchiveLimits) -> None:
    name, path = member.name, member.path
    if not name or "\0" in name or "\\" in name or len(name.encode(errors="replace")) > limits.max_name_bytes:
        raise _refused(
            name, f"a bad name (empty, longer than {limits.max_name_bytes} bytes, or with \\ or NUL)"
        )
    if any(len(part.encode(errors="replace")) > _MAX_PART_BYTES for part in path.parts):
        raise _refused(name, f"a bad name (a part longer than {_MAX_PART_BYTES} bytes)")
    if not path.parts and not member.is_folder:
        raise _refused(name, "a file in place of the archive's own folder")
    if path.is_absolute() or any(":" in part for part in path.parts[:1]):
        raise _refused(name, "an absolute path")
    if ".." in path.parts:
        raise _refused(name, "a path with ..")
    if len(path.parts) > limits.max_depth:
        raise _refused(name, f"deeper than {limits.max_depth} folders")
    if str(path) in seen and not (member.is_folder and seen[str(path)]):
        raise _refused(name, "there twice")
    for parent in path.parents:
        if seen.get(str(parent), True) is False:
            raise _refused(name, f"below {parent}, which is a file")


def _copy(member: _Member, into: Path | None, room: _Room) -> None:
    """Read a file to its end, counting real bytes."""
    if member.path.suffix.lower() in PICKLE_SUFFIXES:
        why = "leave it out of the archive"
        if member.path.name in PICKLE_NAMES:
            why = f"convert it where you trust it: {CONVERT_LINE}"
        raise _refused(member.name, f"a pickle: only safetensors are opened; {why}")
    room.require(member.size)
    chunk = member.data.read(_CHUNK_BYTES)
    if _is_pickle(chunk):
        raise _refused(member.name, "a pickle by its content: only safetensors are opened")
    with nullcontext() if into is None else _create(into.joinpath(member.path)) as target:
        while chunk:
            room.take(len(chunk))
            if target is not None:
                target.write(chunk)
            chunk = member.data.read(_CHUNK_BYTES)


def _create(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("xb")


def _is_pickle(start: bytes) -> bool:
    """A pickle stream, or a zip as torch.save writes it; neither has a place in a checkpoint."""
    # The length that begins a safetensors file can look like PROTO; its JSON follows at byte 8.
    return start.startswith(b"PK\x03\x04") or (start.startswith(_PICKLE_STARTS) and start[8:9] != b"{")


def _find_root(files: list[str]) -> str:
    roots: set[str] = set()
    for path in map(PurePosixPath, files):
        # A hidden folder is an operating system's or a tool's leaving.
        hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
        if path.name in (CHECKPOINT_MARK, ARTIFACT_MARK) and not hidden:
            roots.add("" if str(path.parent) == "." else str(path.parent))
    if not roots:
        found = _shown(", ".join(files[:3])) or "nothing at all"
        raise ArchiveError(
            f"archive: holds no checkpoint ({CHECKPOINT_MARK}) and no artifact ({ARTIFACT_MARK}): {found}",
            field="file",
        )
    top = min(roots, key=len)
    # Folders below a checkpoint are its maker's matter: another format, an earlier step of training.
    if any(root != top and top and not root.startswith(f"{top}/") for root in roots):
        found = _shown(", ".join(sorted(root or "the top" for root in roots)))
        raise ArchiveError(
            f"archive: holds {len(roots)} checkpoints or artifacts, but one is needed: {found}",
            field="file",
        )
    return top


def _refused(name: str, why: str) -> ArchiveError:
    shown = _shown(name)
    return ArchiveError(f"archive member {shown!r}: {why}", field=shown)


def _shown(name: str) -> str:
    return name.encode("unicode_escape", "replace").decode()[:200]


def _unsound(error: Exception) -> ArchiveError:
    what = _shown(str(error) or type(error).__name__)[:120]
    return ArchiveError(f"archive: not a sound .tar, .tar.gz or .zip archive ({what})", field="file")
