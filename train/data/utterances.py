"""Utterances with intents and slots: words with BIO tags, or a text with the character spans of its slots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.data.rows import DataError, UtteranceRow

OUTSIDE = "O"
SHOWN = 60  # characters of a value in a message


def read_utterance(path: Path, row: int, values: dict[str, Any]) -> UtteranceRow:
    """One row. Raises DataError where words and tags, or text and slots, do not match."""
    intent = values.get("intent")
    if not isinstance(intent, str) or not intent.strip():
        raise DataError(path, row, "intent", f"{str(intent)[:SHOWN]!r}: the name of an intent is needed")
    if "slots" in values:
        words, tags = _from_spans(path, row, values)
    elif "tokens" in values:
        words = _names(path, row, "tokens", values)
        tags = _names(path, row, "tags", values)
    else:
        words = _split(path, row, "text", values)
        tags = _split(path, row, "tags", values)
    _check_tags(path, row, words, tags)
    return UtteranceRow(row, tuple(words), tuple(tags), intent.strip())


def _split(path: Path, row: int, field: str, values: dict[str, Any]) -> list[str]:
    value = values.get(field)
    if not isinstance(value, str) or not value.split():
        needed = "words" if field == "text" else "tags with spaces between them"
        raise DataError(path, row, field, f"{str(value)[:SHOWN]!r}: {needed} are needed")
    return value.split()


def _names(path: Path, row: int, field: str, values: dict[str, Any]) -> list[str]:
    """A list of words; a word has no white space, because utterances are their words joined by spaces."""
    value = values.get(field)
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise DataError(path, row, field, f"{str(value)[:SHOWN]!r}: a list of words is needed")
    for place, name in enumerate(value, 1):
        if name.split() != [name]:
            raise DataError(
                path, row, field, f"word {place} is {name[:SHOWN]!r}: it is empty or has white space"
            )
    return value


def _check_tags(path: Path, row: int, words: Sequence[str], tags: Sequence[str]) -> None:
    if len(words) != len(tags):
        raise DataError(path, row, "tags", f"{len(tags)} tags for {len(words)} words")
    before = OUTSIDE
    for place, tag in enumerate(tags, 1):
        prefix, _, name = tag.partition("-")
        if tag != OUTSIDE and (prefix not in ("B", "I") or not name):
            raise DataError(
                path, row, "tags", f"tag {place} is {tag[:SHOWN]!r}: O, B-NAME or I-NAME is needed"
            )
        if prefix == "I" and before.partition("-")[2] != name:
            raise DataError(
                path, row, "tags", f"tag {place} is {tag!r} after {before!r}: a slot begins with B-{name}"
            )
        before = tag


def _from_spans(path: Path, row: int, values: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Words are separated by white space and by the ends of slots."""
    text = values.get("text")
    if not isinstance(text, str) or not text.strip():
        raise DataError(path, row, "text", f"{str(text)[:SHOWN]!r}: a text is needed")
    if not isinstance(values["slots"], list):
        raise DataError(path, row, "slots", "a list of objects with start, end and label is needed")
    slots = sorted(_slot(path, row, text, slot) for slot in values["slots"])
    words, tags, place = text[: slots[0][0]].split() if slots else text.split(), [], 0
    tags = [OUTSIDE] * len(words)
    for index, (first, end, name) in enumerate(slots):
        if first < place:
            raise DataError(path, row, "slots", f"{name!r} at {first} overlaps the slot that ends at {place}")
        inside = text[first:end].split()
        place = slots[index + 1][0] if index + 1 < len(slots) else len(text)
        after = text[end:place].split() if place >= end else []
        words += [*inside, *after]
        tags += [f"B-{name}", *[f"I-{name}"] * (len(inside) - 1), *[OUTSIDE] * len(after)]
        place = end
    return words, tags


def _slot(path: Path, row: int, text: str, slot: Any) -> tuple[int, int, str]:
    """Start, end and name of a slot that is inside of the text and begins and ends at a letter of it."""
    match slot:
        case {"start": int(first), "end": int(end), "label": str(name)} if name.split() == [name]:
            if not 0 <= first < end <= len(text):
                raise DataError(
                    path,
                    row,
                    "slots",
                    f"{name!r} is at {first} to {end}, but the text has {len(text)} characters",
                )
            if text[first:end].strip() != text[first:end]:
                raise DataError(
                    path,
                    row,
                    "slots",
                    f"{name!r}: {text[first:end][:SHOWN]!r} begins or ends with white space",
                )
            return first, end, name
    raise DataError(
        path, row, "slots", f"{str(slot)[:SHOWN]}: start, end (whole numbers) and label are needed"
    )
