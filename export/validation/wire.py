"""Protocol buffers before they are parsed: which fields there are, and how many.

An empty message takes two bytes on the wire and a hundred in memory, and parsers differ in what they do with
unknown fields. Nothing is built here. Format: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from google.protobuf.message import DecodeError

Fields = Mapping[str, Any]  # name of a field -> the Fields of a message, or None
_VARINT, _EIGHT_BYTES, _MEASURED, _FOUR_BYTES = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10


class WireError(ValueError):
    """The message names what is not allowed, and where."""


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    message: Shape | None
    is_text: bool
    is_list_of_numbers: bool  # such a list may be packed into one field


class Shape:
    """The fields that a message and its inner messages may have."""

    def __init__(self, descriptor: Any, fields: Fields) -> None:
        self._descriptor = descriptor
        self._fields: dict[int, _Field] = {}
        for name, inner in fields.items():
            field = descriptor.fields_by_name[name]
            message = None if inner is None else Shape(field.message_type, inner)
            text = field.type == field.TYPE_STRING
            numbers = field.is_repeated and not text and field.type != field.TYPE_MESSAGE
            self._fields[field.number] = _Field(name, message, text, numbers)

    def check(self, data: bytes, most: int) -> None:
        """Raise WireError where `data` is damaged, has another field, or more than `most` fields in all."""
        _Walk(data, most).message(self, 0, len(data), "the model")

    def field(self, number: int, where: str) -> _Field:
        if number not in self._fields:
            known = self._descriptor.fields_by_number.get(number)
            name = f"number {number}" if known is None else known.name
            raise WireError(f"{where} has the field {name}, which this exporter does not write")
        return self._fields[number]


def parse_model(data: bytes, shape: Shape, most: int) -> onnx.ModelProto:
    """Parse a model whose fields are those of `shape`, at most `most`; raises WireError."""
    shape.check(data, most)
    try:
        return onnx.ModelProto.FromString(data)
    except DecodeError:
        raise WireError("damaged") from None


class _Walk:
    def __init__(self, data: bytes, most: int) -> None:
        self._data = data
        self._most = most
        self._left = most

    def message(self, shape: Shape, position: int, end: int, where: str) -> None:
        seen: dict[str, int] = {}
        while position < end:
            key, position = self._varint(position, end, where)
            field, kind = shape.field(key >> 3, where), key & 7
            self._count(1)
            inner = where
            if field.message is not None:
                inner = f"{field.name} {seen.get(field.name, 0)} of {where}"
                seen[field.name] = seen.get(field.name, 0) + 1
            if kind not in (_VARINT, _EIGHT_BYTES, _MEASURED, _FOUR_BYTES):
                raise WireError(f"{where}: {field.name} is damaged")
            if field.message is not None and kind != _MEASURED:
                raise WireError(f"{where}: {field.name} is no message")
            position = self._value(field, kind, position, end, inner)
            if position > end:
                raise WireError(f"{where}: {field.name} is truncated")

    def _value(self, field: _Field, kind: int, position: int, end: int, where: str) -> int:
        """Returns the position after the value."""
        if kind == _VARINT:
            return self._varint(position, end, where)[1]
        if kind != _MEASURED:
            return position + (8 if kind == _EIGHT_BYTES else 4)
        length, position = self._varint(position, end, where)
        if field.message is not None and position + length <= end:
            self.message(field.message, position, position + length, where)
        elif field.is_text:
            self._check_text(field.name, self._data[position : position + length], where)
        elif field.is_list_of_numbers:
            self._count(length)
        return position + length

    def _check_text(self, name: str, data: bytes, where: str) -> None:
        """Refuse text that is not UTF-8: the parser would return it as bytes."""
        try:
            data.decode()
        except UnicodeDecodeError:
            raise WireError(f"{where}: {name} is no UTF-8") from None

    def _varint(self, position: int, end: int, where: str) -> tuple[int, int]:
        value = 0
        for index, byte in enumerate(self._data[position : min(end, position + _MAX_VARINT_BYTES)]):
            value |= (byte & 127) << (7 * index)
            if byte < 128:
                return value, position + index + 1
        raise WireError(f"{where} is truncated")

    def _count(self, fields: int) -> None:
        self._left -= fields
        if self._left < 0:
            raise WireError(f"more than {self._most} fields")
