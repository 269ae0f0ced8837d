"""Reads the members of a tar archive in little memory, whatever its headers say.

The standard library's `tarfile` reads headers of any size into memory, treats a damaged header as the end of
the archive, and expands sparse files; how a subclass can refuse that differs between releases of Python.

    header (512) | content, padded to 512 | header | ... | 512 zeros, which end the archive

Formats: "ustar Interchange Format" and "pax Header Block" in POSIX.1-2017, utility pax; "Basic Tar Format" in
the manual of GNU tar.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from export.errors import ArchiveError

BLOCK = 512
# Bytes of all headers that describe one member and precede its own header.
MAX_HEADER_BYTES = 1 << 16
_MAGICS = (b"ustar\0", b"ustar ", bytes(6))  # POSIX, GNU, and the format of Unix V7
_DESCRIBING = (b"x", b"X", b"g", b"L", b"K")  # types of the headers before the one of a member
# Keywords of pax records for sparse files, whose holes are left out; this reader does not restore them.
_SPARSE = (b"GNU.sparse.", b"SCHILY.realsize", b"SUN.holesdata")
_RECORD_LENGTH = re.compile(rb"([0-9]{1,20}) ")
_DECIMAL = re.compile(rb"[0-9]{1,20}")
_OCTAL = re.compile(rb"[0-7]*")


class Kind(Enum):
    """The kind of a member; the value is its wording in messages."""

    FILE = "a file"
    FOLDER = "a folder"
    LINK = "a link"
    SPARSE = "a sparse file; pack it without its holes (tar without -S, bsdtar with --no-read-sparse)"
    SPECIAL = "a device, pipe or other special file"


_KINDS = {
    **dict.fromkeys((b"0", b"\0", b"7"), Kind.FILE),
    **dict.fromkeys((b"1", b"2"), Kind.LINK),
    b"5": Kind.FOLDER,
    b"S": Kind.SPARSE,
}


class Stream(Protocol):
    """Bytes in order: each call returns `size` of them, and fewer only at the end."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class TarMember:
    """`data` can be read until the next member is requested."""

    name: str
    kind: Kind
    size: int
    data: Stream


def read_tar(stream: Stream) -> Iterator[TarMember]:
    """The members up to the block of zeros. Callers must stop at a member that is no file or folder.

    Raises ValueError where the archive is damaged or cut off, also while `data` is read, and ArchiveError
    where a header is too large.
    """
    while (member := _next_member(stream)) is not None:
        yield member
        if member.kind is Kind.FILE:
            while member.data.read(MAX_HEADER_BYTES):
                pass
            _take(stream, -member.size % BLOCK)


class _Content:
    """The bytes of one member."""

    def __init__(self, stream: Stream, size: int) -> None:
        self._stream = stream
        self._left = size

    def read(self, size: int, /) -> bytes:
        data = _take(self._stream, min(size, self._left))
        self._left -= len(data)
        return data


def _next_member(stream: Stream) -> TarMember | None:
    described: dict[bytes, bytes] = {}
    header_bytes = 0
    while (header := _read_header(stream)) is not None:
        kind, size = header[156:157], _number(header[124:136])
        if kind not in _DESCRIBING:
            return _member(header, described, stream)
        header_bytes += BLOCK + size
        if header_bytes > MAX_HEADER_BYTES:
            raise ArchiveError(
                f"archive: tar headers of {header_bytes} bytes before a member, but at most"
                f" {MAX_HEADER_BYTES} are read",
                field="file",
            )
        content = _take(stream, size)
        _take(stream, -size % BLOCK)
        description = _describe(kind, content)
        if any(described.get(keyword, value) != value for keyword, value in description.items()):
            raise ValueError("a member with two names or sizes")
        described |= description
    if header_bytes:
        raise ValueError("a header that describes no member")
    return None


def _read_header(stream: Stream) -> bytes | None:
    """A header with a correct checksum; None for the zeros that end the archive."""
    header = stream.read(BLOCK)
    if not header:
        # An archive that is cut off between two members would silently lose the rest.
        raise ValueError("unexpected end, without the block of zeros that ends a tar archive")
    if len(header) != BLOCK:
        raise ValueError("truncated header")
    if not any(header):
        return None
    summed = header[:148] + b" " * 8 + header[156:]
    # Some early tar programs summed the bytes as signed numbers.
    if _number(header[148:156]) not in (sum(summed), sum(memoryview(summed).cast("b"))):
        raise ValueError("invalid header")
    if not header.startswith(_MAGICS, 257):
        raise ValueError("invalid header")
    return header


def _member(header: bytes, described: dict[bytes, bytes], stream: Stream) -> TarMember:
    name = described.get(b"path", _header_name(header))
    size = _number(header[124:136])
    if b"size" in described:
        size = _decimal(described[b"size"])
    kind = _KINDS.get(header[156:157], Kind.SPECIAL)
    if any(keyword.startswith(_SPARSE) for keyword in described):
        kind, name = Kind.SPARSE, described.get(b"GNU.sparse.name", name)
    # Unix V7 has no type for a folder.
    if header[156:157] == b"\0" and name.endswith(b"/"):
        kind = Kind.FOLDER
    data = _Content(stream, size if kind is Kind.FILE else 0)
    return TarMember(name.decode("utf-8", "surrogateescape"), kind, size, data)


def _header_name(header: bytes) -> bytes:
    name, prefix = _text(header[:100]), _text(header[345:500])
    # GNU tar stores times where POSIX has the prefix.
    return prefix + b"/" + name if prefix and header.startswith(b"ustar\0", 257) else name


def _describe(kind: bytes, content: bytes) -> dict[bytes, bytes]:
    """What a describing header says about the member after it, by pax keyword; the rest is ignored."""
    if kind == b"L":
        if not content.endswith(b"\0"):  # all writers end it with NUL; readers differ where it is missing
            raise ValueError("a long name without its end")
        return {b"path": _text(content)}
    if kind == b"K":  # the target of a link
        return {}
    found = {
        keyword: value
        for keyword, value in _pax_records(content)
        if keyword in (b"path", b"size") or keyword.startswith(_SPARSE)
    }
    if kind == b"g" and found:
        raise ValueError("a global header with the name or size of a member")
    return {} if kind == b"g" else found


def _pax_records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Records `LENGTH KEYWORD=VALUE` and a line feed; LENGTH counts the whole record."""
    position = 0
    while position < len(content):
        length = _RECORD_LENGTH.match(content, position)
        if length is None:
            raise ValueError("invalid pax record")
        end = position + int(length[1])
        keyword, equals, value = content[length.end() : end - 1].partition(b"=")
        if not keyword or not equals or content[end - 1 : end] != b"\n":
            raise ValueError("invalid pax record")
        yield keyword, value
        position = end


def _number(field: bytes) -> int:
    """Octal digits, or for larger numbers GNU's binary form, whose first byte is 128."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = _text(field).strip(b" ")
    if not _OCTAL.fullmatch(digits):
        raise ValueError("invalid header")
    return int(digits or b"0", 8)


def _decimal(value: bytes) -> int:
    if not _DECIMAL.fullmatch(value):
        raise ValueError("invalid pax record")
    return int(value)


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _take(stream: Stream, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise ValueError("unexpected end of data")
    return data
