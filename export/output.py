"""Output folders that appear complete or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.errors import ExportError
from runtime.manifest import MANIFEST_FILE


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """An empty folder at `path` that is removed after the block.

    A file lock, which the kernel releases when its process ends, protects the folder of a running export:
    that is an ExportError. What a killed run left is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock_path = path.with_name(f"{path.name}.lock")
    with lock_path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The last holder has removed the lock file; another process may have locked a new one.
            held = lock_path.stat().st_ino == os.fstat(lock.fileno()).st_ino
        except (BlockingIOError, FileNotFoundError):
            held = False
        if not held:
            raise ExportError(f"{path.name}: another export is writing it", field="output")
        try:
            if path.exists():
                shutil.rmtree(path)
            path.mkdir()
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            lock_path.unlink(missing_ok=True)


@contextmanager
def new_folder(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside `output`, which is renamed to `output` when the block ends without an error.

    An existing `output` is an error, unless `overwrite` is set and it is an artifact or empty.
    """
    output = output.absolute()
    replaced = output.with_name(f".{output.name}.old")
    with scratch_folder(output.with_name(f".{output.name}.new")) as building:
        _recover(output, replaced)
        _require_replaceable(output, overwrite)
        yield building
        _sync(building)
        _replace(output, building, replaced)
        _sync_folder(output.parent)


def _require_replaceable(output: Path, overwrite: bool) -> None:
    """Refuse to replace anything but an artifact or an empty folder: it could be a home folder."""
    if not os.path.lexists(output):
        return
    problem = None
    if output.is_symlink() or not output.is_dir():
        problem = "exists, and is no folder; choose another"
    elif not overwrite:
        problem = "exists already; choose another or overwrite it"
    elif any(output.iterdir()) and not (output / MANIFEST_FILE).is_file():
        problem = f"is no artifact (it has no {MANIFEST_FILE}), and is not overwritten; choose another"
    if problem:
        raise ExportError(f"{output.name}: {problem}", field="output")


def _recover(output: Path, replaced: Path) -> None:
    """Clean up after a run that was killed between the two renames; the old folder is then the valid one."""
    if replaced.exists() and not output.exists():
        replaced.rename(output)
    elif replaced.exists():
        shutil.rmtree(replaced)


def _replace(output: Path, building: Path, replaced: Path) -> None:
    if output.exists():
        output.rename(replaced)
    building.rename(output)
    shutil.rmtree(replaced, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Sync files before folders: a power cut must not leave a folder that looks complete with empty files."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    for path in (*folder.rglob("*"), folder):
        if path.is_dir():
            _sync_folder(path)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
