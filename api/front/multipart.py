"""An upload as multipart/form-data (RFC 7578), written to disk while it arrives."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from api.back.store.failures import translated
from api.errors import InvalidInput, TooLarge
from api.front.calls import CallerLeft
from api.front.problems import BadRequest, WrongMediaType

MAX_PARTS = 16
MAX_FIELD_BYTES = 4096
MAX_ENVELOPE_BYTES = 128 * 1024  # boundaries, headers and fields around the file
FLUSH_BYTES = 1024**2


@dataclass(slots=True)
class Upload:
    """The form's fields, and the file `path`, which the receiver has to remove."""

    path: Path
    filename: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    size: int = 0  # bytes of the file
    sha256: str = ""  # of the file, once all of it was received


class _Form:
    """Receives the parser's callbacks. `pending` holds file bytes that are not yet written."""

    def __init__(self, upload: Upload, file_field: str, max_bytes: int) -> None:
        self.upload = upload
        self.pending: list[bytes] = []
        self.digest = hashlib.sha256()  # of the file's bytes that are written
        self.ended = False
        self.has_file = False
        self._file_field = file_field
        self._max_bytes = max_bytes
        self._parts = 0
        self._header_name = b""
        self._header_text = b""
        self._disposition = b""
        self._name = ""
        self._value = b""

    def callbacks(self) -> dict[str, Callable[..., None]]:
        names = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end")
        return {f"on_{name}": getattr(self, f"_{name}") for name in (*names, "headers_finished", "end")}

    def _part_begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise BadRequest(f"the form has more than {MAX_PARTS} parts, the limit")
        self._disposition = self._value = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_text += data[start:end]

    def _header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_text
        self._header_name = self._header_text = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if not self._name:
            raise BadRequest("a part of the form has no name")
        if self._name == self._file_field:
            if self.has_file:
                raise InvalidInput.of(self._file_field, "given twice")
            self.has_file = True
            self.upload.filename = options.get(b"filename", b"").decode("utf-8", "replace")
        elif self._name in self.upload.fields:
            raise InvalidInput.of(self._name, "given twice")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == self._file_field:
            self.upload.size += end - start
            if self.upload.size > self._max_bytes:
                raise TooLarge(f"file: more than {self._max_bytes} bytes, the most that is accepted")
            self.pending.append(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > MAX_FIELD_BYTES:
            raise InvalidInput.of(self._name, f"must have at most {MAX_FIELD_BYTES} bytes")

    def _part_end(self) -> None:
        if self._name != self._file_field:
            try:
                self.upload.fields[self._name] = self._value.decode()
            except UnicodeDecodeError:
                raise InvalidInput.of(self._name, "is not UTF-8") from None

    def _end(self) -> None:
        self.ended = True


async def receive_upload(
    request: Request, staging: Path, *, file_field: str, max_bytes: int, on_bytes: Callable[[int], None]
) -> Upload:
    """Read the whole form. The file is hashed and written to `staging`, and removed after an error.

    Raises WrongMediaType, BadRequest, InvalidInput, TooLarge, CallerLeft, StoreUnavailable.
    """
    boundary = _boundary(request)
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes + MAX_ENVELOPE_BYTES:
        raise TooLarge(f"{file_field}: the body has {declared} bytes; at most {max_bytes} are accepted")
    with translated(staging):
        await asyncio.to_thread(staging.mkdir, parents=True, exist_ok=True)
    upload = Upload(staging / f"upload-{secrets.token_hex(8)}")
    form = _Form(upload, file_field, max_bytes)
    parser = MultipartParser(boundary, form.callbacks())  # type: ignore[arg-type]
    try:
        with translated(staging), await asyncio.to_thread(upload.path.open, "xb") as file:
            await _copy(request, parser, form, file, on_bytes)
        if not form.ended:
            raise BadRequest("the form ends before its closing boundary")
        if not form.has_file:
            raise InvalidInput.of(file_field, "missing")
    except BaseException as error:
        upload.path.unlink(missing_ok=True)
        if isinstance(error, ClientDisconnect):
            raise CallerLeft from None
        if isinstance(error, FormParserError):
            raise BadRequest(f"the form cannot be read: {error}") from None
        raise
    upload.sha256 = form.digest.hexdigest()
    return upload


async def _copy(
    request: Request, parser: MultipartParser, form: _Form, file: IO[bytes], on_bytes: Callable[[int], None]
) -> None:
    waiting = 0
    async for chunk in request.stream():
        on_bytes(len(chunk))
        parser.write(chunk)
        waiting += len(chunk)
        if waiting >= FLUSH_BYTES:
            await _flush(form, file)
            waiting = 0
    parser.finalize()
    await _flush(form, file)


async def _flush(form: _Form, file: IO[bytes]) -> None:
    data = b"".join(form.pending)
    form.pending.clear()
    await asyncio.to_thread(_write, form, file, data)


def _write(form: _Form, file: IO[bytes], data: bytes) -> None:
    file.write(data)
    form.digest.update(data)


def _boundary(request: Request) -> bytes:
    media_type, options = parse_options_header(request.headers.get("content-type", ""))
    if media_type != b"multipart/form-data":
        shown = media_type.decode("latin-1") or "missing"
        raise WrongMediaType(f"Content-Type is {shown}; this route reads multipart/form-data")
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:
        raise BadRequest("Content-Type: the boundary must have 1 to 70 characters (RFC 2046)")
    return boundary
