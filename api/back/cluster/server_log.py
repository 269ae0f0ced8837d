"""A server's log file, passed on line by line to the log of the façade.

Reading the file rather than a pipe means that a façade which is slow or gone never holds up the server.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.25
MAX_READ_BYTES = 2**16  # at once, so that a flood of lines leaves the event loop free for others
MAX_LINE = 8000  # characters of a line that are kept
# I1129 10:27:11.968253 13408 cuda_memory_manager.cc:117] "CUDA memory pool disabled"
OF_TRITON = re.compile(r"(?P<level>[IWEF])\d{4} [\d:.]+ \d+ (?P<place>[\w.]+:\d+)\] (?P<message>.*)")
LEVELS = {"I": logging.INFO, "W": logging.WARNING, "E": logging.ERROR, "F": logging.CRITICAL}

logger = logging.getLogger("lmaas.server")


class ServerLog:
    def __init__(self, path: Path, server: str, position: int) -> None:
        """From `position` in the file on. Must be made on an event loop."""
        self._path = path
        self._server = server
        self._position = position
        self._rest = b""  # a line whose end is not written yet
        self._following = asyncio.create_task(self._follow())

    async def end(self) -> None:
        """The server is gone: pass on what is left."""
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)
        while self._pass_on():
            pass

    async def _follow(self) -> None:
        while True:  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0 if self._pass_on() else POLL_SECONDS)

    def _pass_on(self) -> bool:
        """Read once; whether something was there."""
        found = b""
        with suppress(OSError), self._path.open("rb") as file:
            file.seek(self._position)
            found = file.read(MAX_READ_BYTES)
        self._position += len(found)
        *lines, self._rest = (self._rest + found).split(b"\n")
        if len(self._rest) > MAX_READ_BYTES:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            if text := line.decode(errors="replace").strip():
                logger.handle(record_of(text, self._server))
        return bool(found)


def record_of(line: str, server: str) -> logging.LogRecord:
    """The record of a line: one of a model's process, which is a JSON object, or one of Triton's own."""
    fields: dict[str, Any] = {"server": server}
    level, message = logging.INFO, line[:MAX_LINE]
    if (own := _read_own(line)) is not None:
        level = logging.getLevelName(own["level"].upper())
        fields |= own
    elif (found := OF_TRITON.match(line)) is not None:
        level, message = LEVELS[found["level"]], found["message"][:MAX_LINE].strip('"')
        fields["place"] = found["place"]
    return logging.makeLogRecord(
        {
            "name": logger.name,
            "levelno": level,
            "levelname": logging.getLevelName(level),
            "msg": message,
            "fields": fields,
        }
    )


def _read_own(line: str) -> dict[str, Any] | None:
    """What JsonFormatter wrote in the process of a model."""
    if not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    known = isinstance(found, dict) and isinstance(logging.getLevelName(str(found.get("level")).upper()), int)
    return found if known and {"time", "logger", "message"} <= found.keys() else None
