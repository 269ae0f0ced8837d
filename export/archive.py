"""Archives of checkpoints and artifacts: each member is validated by its content, not by its name.

No byte of a member is written to disk before the member passed its checks. Standard library only.
"""

from __future__ import annotations

import gzip
import tarfile
from contextlib import nullcontext
from pathlib import Path, PurePosixPath
from typing import IO

from export.errors import ArchiveError
from export.members import CHUNK_BYTES, ArchiveLimits, Member, Room, escaped, open_members, refused
from export.reading import CONVERT_LINE, PICKLE_NAMES

CHECKPOINT_MARK = "config.json"
ARTIFACT_MARK = "manifest.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
# Protocol 2 and later begin with PROTO and the number; torch.save writes a zip around such a stream.
_PICKLE_STARTS = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_MAX_PART_BYTES = 255  # of one file's or folder's name on Linux


def validate_archive(path: Path, limits: ArchiveLimits | None = None) -> None:
    """Read the whole archive without unpacking it; raises ArchiveError naming the member that is refused."""
    _walk(path, None, limits or ArchiveLimits())


def unpack_archive(path: Path, into: Path, limits: ArchiveLimits | None = None) -> Path:
    """Unpack below the existing folder `into`, validating each member; returns the checkpoint's folder.

    Raises ArchiveError; the caller then removes `into` with what was written.
    """
    return into / _walk(path, into, limits or ArchiveLimits())


def pack_folder(folder: Path, archive: Path) -> None:
    """Write the files of `folder` as .tar.gz; the same files give the same bytes."""
    # Without these arguments, gzip stores the current time and the file's name.
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
    """Returns the folder in the archive that holds config.json or manifest.json; "" for the top."""
    seen: dict[str, bool] = {}  # name -> is a folder
    room = Room(path, limits)
    with open_members(path, limits) as members:
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


def _check_path(member: Member, seen: dict[str, bool], limits: ArchiveLimits) -> None:
    name, path = member.name, member.path
    if not name or "\0" in name or "\\" in name or len(name.encode(errors="replace")) > limits.max_name_bytes:
        raise refused(
            name, f"a bad name (empty, longer than {limits.max_name_bytes} bytes, or with \\ or NUL)"
        )
    if any(len(part.encode(errors="replace")) > _MAX_PART_BYTES for part in path.parts):
        raise refused(name, f"a bad name (a part longer than {_MAX_PART_BYTES} bytes)")
    if not path.parts and not member.is_folder:
        raise refused(name, "a file in place of the archive's own folder")
    if path.is_absolute() or any(":" in part for part in path.parts[:1]):
        raise refused(name, "an absolute path")
    if ".." in path.parts:
        raise refused(name, "a path with ..")
    if len(path.parts) > limits.max_depth:
        raise refused(name, f"deeper than {limits.max_depth} folders")
    if str(path) in seen and not (member.is_folder and seen[str(path)]):
        raise refused(name, "there twice")
    for parent in path.parents:
        if seen.get(str(parent), True) is False:
            raise refused(name, f"below {parent}, which is a file")


def _copy(member: Member, into: Path | None, room: Room) -> None:
    """Read a file to its end and count its real bytes."""
    if member.path.suffix.lower() in PICKLE_SUFFIXES:
        why = "leave it out of the archive"
        if member.path.name in PICKLE_NAMES:
            why = f"convert it where you trust it: {CONVERT_LINE}"
        raise refused(member.name, f"a pickle: only safetensors are opened; {why}")
    room.require(member.size)
    chunk = member.data.read(CHUNK_BYTES)
    if _is_pickle(chunk):
        raise refused(member.name, "a pickle by its content: only safetensors are opened")
    with nullcontext() if into is None else _create(into.joinpath(member.path)) as target:
        while chunk:
            room.take(len(chunk))
            if target is not None:
                target.write(chunk)
            chunk = member.data.read(CHUNK_BYTES)


def _create(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("xb")


def _is_pickle(start: bytes) -> bool:
    """True for a pickle stream, and for a zip as torch.save writes it: neither belongs in a checkpoint."""
    # A safetensors file begins with a length that can look like PROTO; its JSON starts at byte 8.
    return start.startswith(b"PK\x03\x04") or (start.startswith(_PICKLE_STARTS) and start[8:9] != b"{")


def _find_root(files: list[str]) -> str:
    roots: set[str] = set()
    for path in map(PurePosixPath, files):
        # Operating systems and tools leave hidden folders behind.
        hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
        if path.name in (CHECKPOINT_MARK, ARTIFACT_MARK) and not hidden:
            roots.add("" if str(path.parent) == "." else str(path.parent))
    if not roots:
        found = escaped(", ".join(files[:3])) or "nothing at all"
        raise ArchiveError(
            f"archive: holds no checkpoint ({CHECKPOINT_MARK}) and no artifact ({ARTIFACT_MARK}): {found}",
            field="file",
        )
    top = min(roots, key=len)
    # Folders below a checkpoint are ignored: other formats, or earlier training steps.
    if any(root != top and top and not root.startswith(f"{top}/") for root in roots):
        found = escaped(", ".join(sorted(root or "the top" for root in roots)))
        raise ArchiveError(
            f"archive: holds {len(roots)} checkpoints or artifacts, but one is needed: {found}",
            field="file",
        )
    return top
