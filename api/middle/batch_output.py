"""The output file and the error file of a batch: together they have one line for each line of its input."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from api.back.store.failures import translated
from api.back.store.files import FileDownload
from api.back.store.records import BatchRecord
from api.middle.batch_input import ENVELOPE_BYTES, read_lines
from api.middle.batch_lines import failed_line
from api.middle.files import BATCH_OUTPUT

if TYPE_CHECKING:
    from api.middle.batch_runner import BatchParts


class BatchOutput:
    """Writes the files. To write them again, after a restart, gives the same files."""

    def __init__(self, record: BatchRecord, parts: BatchParts, file: FileDownload) -> None:
        self._record = record
        self._parts = parts
        self._input = file

    async def write(self, done: set[int], code: str = "", message: str = "") -> dict[str, Any]:
        """`code` and `message` say why the lines that are not in `done` have no answer.

        Returns `output_file` and `error_file`: the ids of the files, None for one that would be empty.
        """
        errors = self._pages(self._answers(failed=True), self._unanswered(done, code, message))
        return {
            "output_file": await self._store("output", self._answers(failed=False)),
            "error_file": await self._store("errors", errors),
        }

    async def _answers(self, *, failed: bool) -> AsyncIterator[list[str]]:
        after = 0
        while page := await self._parts.store.results(self._record, failed=failed, after=after):
            yield [result.line for result in page]
            after = page[-1].number

    async def _unanswered(self, done: set[int], code: str, message: str) -> AsyncIterator[list[str]]:
        record = self._record
        if len(done) >= record.total:  # also where the batch was cancelled before its lines were checked
            return
        async for lines in read_lines(self._input, self._parts.max_body_bytes + ENVELOPE_BYTES):
            yield [
                failed_line(
                    f"{record.id.removeprefix('batch_')}{number:05}", self._custom_id(raw), code, message
                )
                for number, raw in lines
                if number not in done
            ]

    def _custom_id(self, raw: bytes) -> str:
        return self._parts.form.read(raw, self._record.endpoint).custom_id

    async def _pages(self, *sources: AsyncIterator[list[str]]) -> AsyncIterator[list[str]]:
        for source in sources:
            async for page in source:
                yield page

    async def _store(self, kind: str, pages: AsyncIterator[list[str]]) -> str | None:
        file_id = f"{self._record.id.replace('batch_', 'file-')}-{kind}"
        path = self._parts.staging / file_id
        digest, size = hashlib.sha256(), 0
        try:
            with translated(self._parts.staging):
                await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
                await asyncio.to_thread(path.write_bytes, b"")
                async for page in pages:
                    data = "".join(f"{line}\n" for line in page).encode()
                    digest.update(data)
                    size += len(data)
                    await asyncio.to_thread(_append, path, data)
            if size == 0:
                return None
            record = self._parts.files.new(
                file_id,
                self._record.caller,
                f"{self._record.id}_{kind}.jsonl",
                BATCH_OUTPUT,
                size,
                digest.hexdigest(),
            )
            await self._parts.files.put(record, path)
            return file_id
        finally:
            path.unlink(missing_ok=True)


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)
