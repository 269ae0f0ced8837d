"""Download of an artifact as .tar.gz."""

from __future__ import annotations

from collections.abc import AsyncGenerator


class ArchiveDownload:
    """A .tar.gz that is made while it is read; the same artifact always gives the same bytes."""

    filename: str
    etag: str  # hexadecimal, without quotes; strong
    size: int  # bytes

    async def read(self, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to, not including, `end`, in chunks of some MiB."""
        raise NotImplementedError
        yield b""
