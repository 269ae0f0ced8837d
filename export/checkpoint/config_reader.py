"""Typed access to config.json of a checkpoint."""

from __future__ import annotations

from typing import Any

from export.checkpoint.generation import token_ids
from export.errors import CheckpointError

CONFIG_FILE = "config.json"
MAX_LABELS = 100_000
MAX_LABEL_LENGTH = 1000  # characters


class ConfigReader:
    """Every error names the key, the value and what is allowed."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data

    def get(self, key: str, default: Any) -> Any:
        value = self._data.get(key)
        return default if value is None else value

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        value = self.get(key, default)
        if type(value) is not int or not low <= value <= high:
            raise refused(key, value, f"a whole number from {low} to {high} is needed")
        return value

    def tokens(self, key: str, vocab_size: int, absent: int | None) -> list[int]:
        """The ids of a token, or of several in a list; none where it is null: the model has no such token."""
        if key not in self._data:
            return [] if absent is None else [absent]
        return token_ids(self._data[key], CONFIG_FILE, key, vocab_size)

    def padding(self, vocab_size: int) -> int | None:
        """None where no text can have the token: it is null, negative, or beyond the embedding."""
        token = self.get("pad_token_id", -1)
        if type(token) is not int:
            raise refused("pad_token_id", token, "a whole number or null is needed")
        return token if 0 <= token < vocab_size else None

    def boolean(self, key: str, default: bool) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise refused(key, value, "true or false is needed")
        return value

    def number(self, key: str, default: float, low: float, high: float) -> float:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise refused(key, value, f"a number from {low} to {high} is needed")
        return float(value)

    def by_layer(self, key: str, layers: int, default: int, most: int) -> tuple[int, ...]:
        """A whole number for each layer; the same in all where config.json has no list."""
        value = self.get(key, [default] * layers)
        if not isinstance(value, list) or len(value) != layers:
            raise refused(key, value, f"a list of {layers} numbers is needed, one for each layer")
        for number in value:
            if type(number) is not int or not 1 <= number <= most:
                raise refused(key, number, f"whole numbers from 1 to {most} are needed")
        return tuple(value)

    def names(self, key: str) -> tuple[str, ...]:
        """A list of distinct, non-empty strings."""
        value = self.get(key, [])
        if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
            raise refused(key, value, "a list of names is needed")
        return distinct(key, value)


def distinct(key: str, names: list[str]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        raise refused(key, names, "the names repeat")
    if len(names) > MAX_LABELS:
        raise refused(key, len(names), f"at most {MAX_LABELS} names are read")
    if max(map(len, names), default=0) > MAX_LABEL_LENGTH:
        raise refused(key, max(names, key=len), f"a name has at most {MAX_LABEL_LENGTH} characters")
    return tuple(names)


def refused(key: str, value: Any, why: str) -> CheckpointError:
    return CheckpointError(f"{CONFIG_FILE}: {key}: {str(value)[:80]!r}: {why}", field=key)
