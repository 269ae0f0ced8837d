"""Reading what a request carries: strict JSON within its limits, query parameters, the deadline header."""

from __future__ import annotations

import json
import re
import zlib
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request

from api.errors import InvalidInput, TooLarge
from api.front.calls import CallerLeft
from api.front.problems import BadRequest, WrongEncoding, WrongMediaType
from api.front.validation import shown
from api.middle.schemas.base import TaskParameters
from runtime import strict_json
from runtime.parameters import PARAMETERS

DEADLINE_HEADER = "X-Deadline-Ms"
GZIP = ("gzip", "x-gzip")  # names of it in Content-Encoding (RFC 9110, section 8.4.1.3)
MAX_DEPTH = 32  # arrays and objects within each other
MAX_CONTAINERS = 4096  # arrays and objects in all; each costs as much as a hundred bytes of text
MAX_MEMBERS = 1000  # of one object; a message about an unknown one takes some microseconds to make
EXACT = 2**53  # below it a float64 holds every whole number exactly

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class MalformedJson(Exception):
    """`str(error)` says what is wrong and where."""


async def read_json(request: Request, limit: int) -> Any:
    """The parsed body. Raises WrongMediaType, TooLarge, BadRequest."""
    _check_json(request)
    try:
        return parse_json(await _read(request, limit))
    except MalformedJson as error:
        raise BadRequest(str(error)) from None
    except ClientDisconnect:
        raise CallerLeft from None


def is_multipart(request: Request) -> bool:
    return request.headers.get("content-type", "").strip().lower().startswith("multipart/")


def _check_json(request: Request) -> None:
    media_type, _, parameters = request.headers.get("content-type", "application/json").partition(";")
    media_type = media_type.strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise WrongMediaType(f"Content-Type is {media_type!r}; this route reads application/json")
    charset = parameters.lower().partition("charset=")[2].strip().strip('"')
    if charset not in ("", "utf-8", "utf8"):
        raise WrongMediaType(f"the charset is {charset!r}; JSON is UTF-8")
    encoding = _encoding(request)
    if encoding not in ("identity", *GZIP):
        raise WrongEncoding(f"Content-Encoding is {shown(encoding)}; send gzip, or the body as it is")


def _encoding(request: Request) -> str:
    return request.headers.get("content-encoding", "identity").strip().lower()


def unpacked(body: bytes, limit: int) -> bytes:
    """A body in gzip as it was, of at most `limit` bytes. Raises TooLarge, BadRequest."""
    unpacker, pieces, size = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16), [], 0
    try:
        while body:
            pieces.append(unpacker.decompress(body, limit + 1 - size))
            size += len(pieces[-1])
            if size > limit:
                raise TooLarge(f"the body has more than {limit} bytes out of gzip, the most that is accepted")
            body = unpacker.unconsumed_tail
            if unpacker.eof and (body := unpacker.unused_data):  # RFC 1952: members may follow each other
                unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    except zlib.error:
        raise BadRequest("the body is not in gzip, as its Content-Encoding says") from None
    if not unpacker.eof:
        raise BadRequest("the body ends amid its gzip")
    return b"".join(pieces)


async def _read(request: Request, limit: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise TooLarge(f"the body has {declared} bytes; at most {limit} are accepted")
    chunks = []
    size = 0
    async for chunk in request.stream():  # chunked bodies declare no length
        size += len(chunk)
        if size > limit:
            raise TooLarge(f"the body has more than {limit} bytes, the most that is accepted")
        chunks.append(chunk)
    body = b"".join(chunks)
    return unpacked(body, limit) if _encoding(request) in GZIP else body


def read_query(request: Request) -> dict[str, Any]:
    """Query parameters; one that is repeated becomes a list. Raises InvalidInput."""
    query: dict[str, Any] = {}
    # Starlette's own reading puts U+FFFD in place of what is not UTF-8; Latin-1 keeps every byte.
    given = request.scope["query_string"].decode("latin-1")
    for name, latin in parse_qsl(given, keep_blank_values=True, encoding="latin-1"):
        value = _text_of(name, latin)
        if name in query:
            before = query[name]
            query[name] = [*before, value] if isinstance(before, list) else [before, value]
        else:
            query[name] = value
    return query


def _text_of(name: str, latin: str) -> str:
    try:
        return latin.encode("latin-1").decode()
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InvalidInput.of(name, f"is not UTF-8: byte 0x{byte:02x} at {error.start}") from None


def with_deadline(request: Request, parameters: TaskParameters) -> TaskParameters:
    """The parameters with the nearer of their own deadline and the header's. Raises InvalidInput."""
    given = request.headers.get(DEADLINE_HEADER)
    if given is None:
        return parameters
    limits = PARAMETERS["deadline_ms"].range
    if not (given.isascii() and given.isdigit() and len(given) < 10 and int(given) in limits):
        message = f"must be {limits.low} to {limits.high} milliseconds, not {shown(given)}"
        raise InvalidInput.of(DEADLINE_HEADER, message)
    nearer = min(int(given), parameters.deadline_ms or int(given))
    return parameters.model_copy(update={"deadline_ms": nearer})


def parse_json(body: bytes) -> Any:
    """Parse UTF-8 JSON. Raises MalformedJson, also for NaN, repeated names and lone surrogates."""
    if not body.strip():
        raise MalformedJson("the body is empty; a JSON object is needed")
    _check_structure(body)
    try:
        return strict_json.parse(body.decode(), parse_float=_number, max_members=MAX_MEMBERS)
    except UnicodeDecodeError as error:
        raise MalformedJson(
            f"the body is not UTF-8: byte 0x{body[error.start]:02x} at offset {error.start}"
        ) from None
    except json.JSONDecodeError as error:
        raise MalformedJson(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except ValueError as error:  # also an integer of more digits than Python converts
        raise MalformedJson(str(error)) from None


def _check_structure(body: bytes) -> None:
    """Count arrays and objects before one is made, in few passes: a step for each took seconds."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    brackets = _STRING.sub(b"", body).translate(None, delete=_NO_BRACKETS)
    depth = 0
    for bracket in brackets[: 2 * MAX_CONTAINERS]:
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise MalformedJson(f"arrays and objects are nested deeper than {MAX_DEPTH}, the limit")
    if len(brackets) > 2 * MAX_CONTAINERS:
        raise MalformedJson(f"more than {MAX_CONTAINERS} arrays and objects, the limit")


def _number(text: str) -> float:
    """16.0 is a whole number however it is written, as in JSON Schema."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < EXACT else value
