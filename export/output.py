"""A folder that appears whole or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.errors import ExportError
from runtime.contract import MANIFEST_FILE


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """An empty folder at `path` that is gone after the block.

    A lock, which the kernel frees with its process, tells the leftover of a killed run, which goes, from
    the folder of one under way, which is an ExportError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock_path = path.with_name(f"{path.name}.lock")
    with lock_path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held the lock until now has removed the file: another may have locked its successor.
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
    """Give a temporary sibling of `output` to fill; it takes the place of `output` when the block ends well.

    An existing `output` is an error unless `overwrite` is set, and it is an artifact or empty.
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
    """Nobody's models or home folder are taken for an old artifact."""
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
    """Clean up after a run that was killed between the two renames: then the old folder is the valid one."""
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
    """Bytes first, then the name: a power cut must not leave a whole-looking folder of empty files."""
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
