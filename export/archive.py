"""Archives of checkpoints and artifacts: each member is validated by its content, not by its name.

No byte of a member is written to disk before the member passed its checks.
"""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import IO

from export.errors import ArchiveError
from export.members import CHUNK_BYTES, ArchiveLimits, Member, Room, escaped, open_members, refused
from export.reading import CONVERT_LINE

CHECKPOINT_MARK = "config.json"
ARTIFACT_MARK = "manifest.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
# Protocol 2 and later begin with PROTO and the number; torch.save writes a zip around such a stream.
_PICKLE_STARTS = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
# What an export may read. The rest of an archive or a folder is skipped: what a trainer or git left there.
_NEEDED_SUFFIXES = (
    *(".json", ".txt", ".bpe", ".model", ".jinja", ".safetensors"),
    *(".onnx", ".data", ".onnx_data"),
)
_DOCUMENTS = (".md", "LICENSE", "NOTICE", ".gitattributes", ".gitignore")  # that are skipped without a note
_NAMES_SHOWN = 8
ADAPTER_MARK = "adapter_config.json"
_MAX_PART_BYTES = 255  # of one file's or folder's name on Linux


def validate_archive(path: Path, limits: ArchiveLimits | None = None) -> None:
    """Read the whole archive without unpacking it; raises ArchiveError naming the member that is refused."""
    _walk(path, None, limits or ArchiveLimits())


def unpack_archive(
    path: Path, into: Path, limits: ArchiveLimits | None = None, on_skip: Callable[[str], object] = str
) -> Path:
    """Unpack below the existing folder `into`, validating each member; returns the checkpoint's folder.

    `on_skip` gets the names of members that no export reads: they are not unpacked. Raises ArchiveError; the
    caller then removes `into` with what was written.
    """
    return into / _walk(path, into, limits or ArchiveLimits(), on_skip)


def is_needed(path: PurePosixPath) -> bool:
    """Whether an export may read a file of this name. Tools leave hidden folders behind."""
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return not hidden and path.suffix.lower() in _NEEDED_SUFFIXES


def files_of(folder: Path) -> tuple[list[Path], list[str]]:
    """The files of a checkpoint's or an artifact's folder that an export may read, and the other names.

    A checkpoint has none in folders below it: those hold earlier steps of a training.
    """
    flat = (folder / CHECKPOINT_MARK).is_file() and not (folder / ARTIFACT_MARK).is_file()
    needed, others = [], []
    for path in sorted(folder.iterdir() if flat else folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and is_needed(PurePosixPath(name.as_posix())):
            needed.append(path)
        elif path.is_file() or flat:
            others.append(name.as_posix())
    return needed, others


def skipped_note(names: Sequence[str]) -> tuple[str, ...]:
    """A note about files that no export reads, by the first part of hidden names; none about documents."""
    shown: dict[str, None] = {}
    for name in names:
        parts = PurePosixPath(name).parts
        hidden = next((place for place, part in enumerate(parts) if part.startswith(".")), len(parts))
        short = "/".join(parts[: hidden + 1])
        if not short.endswith(_DOCUMENTS) and not parts[-1].startswith(_DOCUMENTS):
            shown[escaped(short)] = None
    if not shown:
        return ()
    more = f" and {len(shown) - _NAMES_SHOWN} more" if len(shown) > _NAMES_SHOWN else ""
    return (f"skipped, because no export reads them: {', '.join(list(shown)[:_NAMES_SHOWN])}{more}",)


def pack_folder(folder: Path, archive: Path) -> list[str]:
    """Write as .tar.gz what an export reads of `folder`; returns the names of the rest.

    The same files give the same bytes. Raises ArchiveError where its only weights are pickles.
    """
    needed, others = files_of(folder)
    _require_weights("", [str(path.relative_to(folder)) for path in needed], others)
    # Without these arguments, gzip stores the current time and the file's name.
    with (
        archive.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=1) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in needed:
            member = tarfile.TarInfo(path.relative_to(folder).as_posix())
            member.size = path.stat().st_size
            member.mode = 0o644
            with path.open("rb") as file:
                tar.addfile(member, file)
    return others


def _walk(
    path: Path, into: Path | None, limits: ArchiveLimits, on_skip: Callable[[str], object] = str
) -> str:
    """Returns the folder in the archive that holds config.json or manifest.json; "" for the top."""
    seen: dict[str, bool] = {}  # name -> is a folder
    skipped: list[str] = []
    room = Room(path, limits)
    with open_members(path, limits) as members:
        for count, member in enumerate(members, start=1):
            if count > limits.max_members:
                raise ArchiveError(f"archive: more than {limits.max_members} members", field="file")
            _check_path(member, seen, limits)
            seen |= dict.fromkeys(map(str, member.path.parents), True)
            seen[str(member.path)] = member.is_folder
            if not member.is_folder and is_needed(member.path):
                _copy(member, into, room)
            elif not member.is_folder:
                skipped.append(str(member.path))
                on_skip(str(member.path))
                for _ in _contents(member, room):
                    pass
    files = [name for name, is_folder in seen.items() if not is_folder]
    root = _find_root(files)
    _require_weights(root, [name for name in files if name not in skipped], skipped)
    return root


def _require_weights(root: str, kept: Sequence[str], skipped: Sequence[str]) -> None:
    """Refuse a checkpoint whose only weights are pickles."""
    folder = PurePosixPath(root or ".")
    names = {path.name for name in kept if (path := PurePosixPath(name)).parent == folder}
    if ARTIFACT_MARK in names or any(name.endswith(".safetensors") for name in names):
        return
    for name in skipped:
        path = PurePosixPath(name)
        if path.parent == folder and path.suffix.lower() in PICKLE_SUFFIXES:
            how = f"convert it where you trust it: {CONVERT_LINE}"
            if ADAPTER_MARK in names:
                how = "save the adapter as safetensors (peft's save_pretrained does)"
            raise refused(name, f"a pickle: only safetensors are opened; {how}")


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


def _contents(member: Member, room: Room) -> Iterator[bytes]:
    """The chunks of a file to its end; counts its real bytes."""
    room.require(member.size)
    while chunk := member.data.read(CHUNK_BYTES):
        room.take(len(chunk))
        yield chunk


def _copy(member: Member, into: Path | None, room: Room) -> None:
    """Read a file to its end."""
    chunks = _contents(member, room)
    start = next(chunks, b"")
    if _is_pickle(start):
        raise refused(member.name, "a pickle by its content: only safetensors are opened")
    with nullcontext() if into is None else _create(into.joinpath(member.path)) as target:
        for chunk in chain([start], chunks):
            if target is not None:
                target.write(chunk)


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
    if not roots and any(PurePosixPath(path).name == ADAPTER_MARK for path in files):
        raise ArchiveError(
            f"archive: an adapter ({ADAPTER_MARK}) without its base: pack the base's folder beside it",
            field="file",
        )
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
