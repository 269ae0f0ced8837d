"""The home folder: one process serves from it at a time, and only its user can read it."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from api.back.settings import BackSettings
from api.errors import ServerFault

LOCK_FILE = "lock"
WORKER_FILE = "worker"
LEDGER_FILE = "bundled.json"  # which bundled models were imported
OTHERS = 0o077  # the rights of group and world, which no file has: a process that serves takes it as umask
OURS = (
    "lmaas.db",
    "lmaas.db-shm",
    "lmaas.db-wal",
    "blobs",
    "blobs.lock",
    LEDGER_FILE,
    "logs",
    "staging",
    "trainings",
    "triton",
    "uploads",
    WORKER_FILE,
)

logger = logging.getLogger(__name__)


@contextmanager
def only_user(settings: BackSettings) -> Iterator[None]:
    """Two façades on one home would empty each other's folders; a lock dies with its process."""
    path = settings.home / LOCK_FILE
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            user = lock.read() or "?"
            raise ServerFault(
                f"{settings.home} is in use by process {user}: stop it, or set LMAAS_HOME to another folder"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def worker_id(settings: BackSettings) -> str:
    """The name under which this home's façade owns tasks; it stays the same from run to run. Blocking.

    Only one façade uses a home (`only_user`), so that tasks under this name are never another process's.
    """
    path = settings.home / WORKER_FILE
    if not path.exists():
        partial = path.with_suffix(".part")
        partial.write_text(secrets.token_hex(8))
        partial.replace(path)
    return path.read_text().strip()


def make_private(home: Path) -> None:
    """Take the rights of others off what an earlier release, or a copy, left open. Blocking.

    The folder itself is left alone where it holds other things as well: it may be somebody's.
    """
    found = {path.name for path in home.iterdir()}
    try:
        if found <= {*OURS, LOCK_FILE}:
            _tighten(home)
        for name in sorted(found & {*OURS, LOCK_FILE}):
            _tighten(home / name)
            for folder, folders, files in os.walk(home / name):
                for child in (*folders, *files):
                    _tighten(Path(folder, child))
    except PermissionError as error:  # another user's, as on a mounted volume
        logger.warning("others may be able to read %s: %s", home, error)


def _tighten(path: Path) -> None:
    """Only what is too open is touched: a change of a file's mode is one of its ctime."""
    with suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if (stat.S_ISDIR(mode) or stat.S_ISREG(mode)) and mode & OTHERS:
            path.chmod(stat.S_IMODE(mode) & ~OTHERS)
