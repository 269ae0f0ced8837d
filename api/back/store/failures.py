"""What goes wrong with the database, the blob store and their disk, as the family of api/errors.py.

Every StoreUnavailable is logged where it arises, by `report`: one line a minute for each cause. Code that
catches it and goes on logs only what it could not do.
"""

from __future__ import annotations

import errno
import logging
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from obstore.exceptions import BaseError as BlobError
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as NoConnection

from api.errors import ApiError, InvalidInput, StoreFull, StoreUnavailable

SILENCE_SECONDS = 60.0  # after a line, for the same line
MAX_CAUSES = 100  # that are remembered
TRIAL_BYTES = 256 * 1024  # more than the largest block of a file system

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
NO_WRITING = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO})
_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # how the blob store's library writes an errno
_S3_CODE = re.compile(r"<Code>(\w{1,50})</Code>")
_VARYING = re.compile(r"[0-9a-f]{2}/[0-9a-f]{64}|\d+(\.\d+)?m?s\b")  # of one cause: a blob's key, a duration
_DEFECTS = (DataError, IntegrityError, ProgrammingError)  # of a statement, not of the database

logger = logging.getLogger(__name__)


class OncePerMinute(logging.Filter):
    """Lets a message through once in `SILENCE_SECONDS`, and then says how often it was left out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._written: dict[str, tuple[float, int]] = {}  # cause -> when, and how often left out since

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        cause = _VARYING.sub("", message)
        moment, left_out = self._written.get(cause, (float("-inf"), 0))
        if self._clock() - moment < SILENCE_SECONDS:
            self._written[cause] = (moment, left_out + 1)
            return False
        self._written.pop(cause, None)
        self._written[cause] = (self._clock(), 0)
        if len(self._written) > MAX_CAUSES:
            del self._written[next(iter(self._written))]
        if left_out:
            record.msg, record.args = "%s (and %d more times since the last line)", (message, left_out)
        return True


logger.addFilter(OncePerMinute())


@contextmanager
def translated(where: Path | str, *, logged: bool = True) -> Iterator[None]:
    """Raise StoreFull or StoreUnavailable for what database, bucket or disk say in the block.

    `where` is the file or the folder, or a URL without its password. Defects pass through. `logged` is false
    where the process ends with the message.
    """
    try:
        yield
    except (DBAPIError, NoConnection, BlobError, OSError) as error:
        found = _found(error, where)
        if found is None:
            raise
        if logged and isinstance(found, StoreUnavailable):
            report(found)
        raise found from error


def report(error: StoreUnavailable) -> StoreUnavailable:
    """Log an error that is about to be raised; returns it."""
    logger.error("%s", error.detail)
    return error


def _found(error: Exception, where: Path | str) -> ApiError | None:
    if isinstance(error, DataError) and "NUL" in str(error.orig):
        return InvalidInput.of(
            "request", "a text has the character U+0000 in it, which PostgreSQL cannot keep"
        )
    if isinstance(error, NoConnection):
        return StoreUnavailable(f"all connections to the database are in use: {where}")
    if isinstance(error, DBAPIError):
        return _of_database(error, where)
    return _of_disk(error.errno, error, where) if isinstance(error, OSError) else _of_blobs(error, where)


def _of_database(error: DBAPIError, where: Path | str) -> StoreUnavailable | None:
    if isinstance(error, _DEFECTS):
        return None
    text = str(error.orig).strip().partition("\n")[0]
    if "is locked" in text or "lock timeout" in text:
        return StoreUnavailable(f"the database is locked by another process: {where}")
    if "is full" in text or "No space left" in text or ("disk I/O error" in text and not _has_room(where)):
        return _full(where)
    if "malformed" in text or "not a database" in text:
        return StoreUnavailable(
            f"the database is damaged ({text}): {where}: put a backup in its place, or move it away to begin "
            "with an empty one"
        )
    passing = ("disk I/O error", "readonly database", "unable to open")
    if isinstance(error.orig, sqlite3.Error) and not any(known in text for known in passing):
        return None  # a statement that SQLite does not understand
    return StoreUnavailable(f"the database fails ({text}): {where}")


def _of_blobs(error: Exception, where: Path | str) -> StoreUnavailable:
    # The body of an answer, S3's code for it in there, begins on the first line.
    text = str(error).strip().partition("\n")[0].partition(": <?xml")[0]
    if (reason := _S3_CODE.search(str(error))) is not None:
        text += f", {reason[1]}"
    code = _OS_ERROR.search(text)
    found = _of_disk(int(code[1]), error, where) if code else None
    return found or StoreUnavailable(f"the blob store fails ({text}): {where}")


def _of_disk(code: int | None, error: Exception, where: Path | str) -> StoreUnavailable | None:
    if code in NO_ROOM:
        return _full(where)
    if code in NO_WRITING:
        reason = error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0]
        return StoreUnavailable(f"files cannot be written ({reason}): {where}")
    return None


def _full(where: Path | str) -> StoreFull:
    return StoreFull(f"the disk is full: {where}: make room there", retry_after=10.0)


def _has_room(where: Path | str) -> bool:
    """SQLite says of a quota only that writing failed: try it."""
    trial = Path(where).parent / ".room"
    try:
        trial.write_bytes(bytes(TRIAL_BYTES))
    except OSError as error:
        return error.errno not in NO_ROOM
    finally:
        trial.unlink(missing_ok=True)
    return True
