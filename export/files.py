"""Size and sha256 of files, as manifests and stores keep them, and whether an artifact's files have them."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

from export.errors import ArtifactError, CheckpointError
from export.reading import plain_size
from runtime.contract import shown
from runtime.manifest import FileEntry

_CHUNK_BYTES = 1 << 20


def file_entry(folder: Path, path: Path) -> FileEntry:
    """Size in bytes and sha256 of a file of the artifact `folder`."""
    size, sha256 = hash_file(path)
    return FileEntry(path.relative_to(folder).as_posix(), size, sha256)


def hash_file(path: Path) -> tuple[int, str]:
    """Size in bytes and sha256. It blocks: a coroutine calls it in a thread."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def check_size(folder: Path, expected: FileEntry) -> None:
    """Check that the artifact `folder` has a plain file of the size that its manifest says.

    Raises ArtifactError, also for a path that leads out of the folder or through a link.
    """
    path = PurePosixPath(expected.path)
    if path.is_absolute() or ".." in path.parts:
        raise _differs(expected, "leads out of the artifact")
    for part in (*reversed(path.parents[:-1]), path):
        refuse_link(folder, str(part))
    try:
        size = plain_size(folder / path)
    except CheckpointError as error:
        raise _differs(expected, error.message.removeprefix(f"{path.name}: ")) from None
    if size != expected.size:
        raise _differs(expected, f"size is {size}, but the manifest says {expected.size}")


def check_content(folder: Path, expected: FileEntry) -> None:
    """Read the file to its end; raises ArtifactError where its sha256 is not the one in the manifest."""
    found = file_entry(folder, folder / expected.path)
    if found != expected:
        raise _differs(expected, f"sha256 is {found.sha256}, but the manifest says {shown(expected.sha256)}")


def refuse_link(folder: Path, path: str) -> None:
    """Raise ArtifactError where `path` of the artifact `folder` is a link."""
    if (folder / path).is_symlink():
        raise ArtifactError(f"{path}: a link, but an artifact has none", field=path)


def _differs(expected: FileEntry, problem: str) -> ArtifactError:
    return ArtifactError(f"{expected.path}: {problem}", field=expected.path)
