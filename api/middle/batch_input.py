"""The lines of a batch's input file: read piece by piece, and checked before any of them runs."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence

from api.back.store.files import FileDownload
from api.back.store.records import BatchError
from api.middle.batch_lines import LineError, LineFormat

MAX_LINES = 50_000  # as OpenAI's
MAX_ERRORS = 100  # that a batch reports
ENVELOPE_BYTES = 4096  # of a line, around its body

Numbered = tuple[int, bytes]  # the number of a line, from 1, and its bytes


class TooLong(Exception):
    """A line is longer than its limit."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


async def read_lines(file: FileDownload, max_bytes: int) -> AsyncIterator[list[Numbered]]:
    """The lines, some at a time, without those that are blank. Raises TooLong, StoreUnavailable."""
    number, rest = 0, b""
    async for chunk in file.read():
        *whole, rest = (rest + chunk).split(b"\n")
        lines = []
        for line in whole:
            number += 1
            if len(line) > max_bytes:
                raise TooLong(number)
            if line.strip():
                lines.append((number, line))
        if len(rest) > max_bytes:
            raise TooLong(number + 1)
        yield lines
    if rest.strip():
        yield [(number + 1, rest)]


class InputCheck:
    """Finds what is wrong with an input file: `errors`, or else the number of its lines in `total`."""

    def __init__(self, form: LineFormat, endpoint: str, max_body_bytes: int) -> None:
        self.total = 0
        self.errors: list[BatchError] = []
        self._form = form
        self._endpoint = endpoint
        self._max_bytes = max_body_bytes + ENVELOPE_BYTES
        self._seen: set[bytes] = set()  # digests of custom ids: these may be long

    async def run(self, file: FileDownload) -> None:
        """Raises StoreUnavailable."""
        try:
            async for lines in read_lines(file, self._max_bytes):
                await asyncio.to_thread(self._check, lines)
                if len(self.errors) >= MAX_ERRORS:
                    return
                if self.total > MAX_LINES:
                    self._refuse("too_many_requests", f"the file has more than {MAX_LINES} lines, the limit")
                    return
        except TooLong as error:
            message = f"the line has more than {self._max_bytes} bytes, the limit"
            self._refuse("line_too_large", message, error.number)
            return
        if self.total == 0:
            self._refuse("empty_file", "the file has no lines")

    def _check(self, lines: Sequence[Numbered]) -> None:
        for number, raw in lines:
            self.total += 1
            try:
                custom_id = self._form.read(raw, self._endpoint).custom_id
            except LineError as error:
                self._refuse(error.code, str(error), number, error.param)
                continue
            digest = hashlib.sha256(custom_id.encode()).digest()[:16]
            if digest in self._seen:
                message = f"the custom_id {custom_id[:64]!r} comes twice"
                self._refuse("duplicate_custom_id", message, number, "custom_id")
            self._seen.add(digest)

    def _refuse(self, code: str, message: str, line: int | None = None, param: str | None = None) -> None:
        if len(self.errors) < MAX_ERRORS:
            self.errors.append(BatchError(code, message, line, param))
