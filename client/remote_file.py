"""A file of an appliance that is read in parts, by byte ranges (RFC 9110, section 14)."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from client.connection import reachable
from client.errors import RefusedError

if TYPE_CHECKING:
    import httpx

_CONTENT_RANGE = re.compile(r"bytes \d+-\d+/(\d{1,18})", re.ASCII)


class RemoteFile(io.RawIOBase):
    """Opened for reading; wrap it in `io.BufferedReader`. Raises RefusedError."""

    def __init__(self, http: httpx.Client, path: str) -> None:
        self._http = http
        self._path = path
        self._place = 0
        self._size = self._read_size()

    def _read_size(self) -> int:
        found = _CONTENT_RANGE.fullmatch(self._get(0, 1).headers.get("Content-Range", ""))
        if found is None:
            raise io.UnsupportedOperation(f"{self._path}: the server sends no parts of it")
        return int(found[1])

    def _get(self, start: int, end: int) -> httpx.Response:
        with reachable(str(self._http.base_url)):
            response = self._http.get(self._path, headers={"Range": f"bytes={start}-{end - 1}"})
        if response.is_error:
            raise RefusedError(response.status_code, response.content)
        return response

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = base + offset
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        end = min(self._size, self._place + len(buffer))
        if end <= self._place:
            return 0
        content = self._get(self._place, end).content
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)
