"""Files of an artifact as its manifest lists them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from runtime.contract import FileEntry

_CHUNK_BYTES = 1 << 20


def file_entry(folder: Path, path: Path) -> FileEntry:
    """Size in bytes and sha256 of a file of the artifact `folder`."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return FileEntry(path.relative_to(folder).as_posix(), size, digest.hexdigest())
