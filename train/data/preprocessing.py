"""Preprocessing: named options that do what they say, and the number of rows that each one changed."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from train.data.rows import LabelRow, Row, TextRow, UtteranceRow

AnyRow = TypeVar("AnyRow", bound=Row)
Normalization = Literal["none", "nfc", "nfkc"]


@dataclass(frozen=True)
class Preprocessing:
    """What is done to rows before training. Lengths are characters of all texts of a row."""

    normalize: Normalization = "nfc"
    deduplicate: bool = True
    min_characters: int = 1
    max_characters: int | None = None


@dataclass(frozen=True)
class Report:
    """One option, and the number of rows that it changed, dropped or found."""

    option: str
    what: str
    rows: int

    def __str__(self) -> str:
        return f"{self.option}: {self.what} {self.rows:,}"


def preprocess(rows: Sequence[AnyRow], options: Preprocessing) -> tuple[list[AnyRow], list[Report]]:
    """The rows that are left, and what each option did, in this order: Unicode, length, duplicates."""
    reports = []
    kept = list(rows)
    if options.normalize != "none":
        before, kept = kept, [_normalized(row, options.normalize) for row in kept]
        changed = sum(old != new for old, new in zip(before, kept, strict=True))
        reports.append(Report(f"--normalize {options.normalize}", "rows changed", changed))
    if options.min_characters > 1:
        before, kept = kept, [row for row in kept if len(_text(row)) >= options.min_characters]
        shorter = len(before) - len(kept)
        reports.append(Report(f"--min-characters {options.min_characters}", "rows dropped", shorter))
    if (most := options.max_characters) is not None:
        before, kept = kept, [row for row in kept if len(_text(row)) <= most]
        reports.append(Report(f"--max-characters {most}", "rows dropped", len(before) - len(kept)))
    if options.deduplicate:
        before, kept = kept, _distinct(kept)
        reports.append(Report("--deduplicate", "rows dropped", len(before) - len(kept)))
        contradictions = len(kept) - len({_text(row) for row in kept})
        if contradictions:
            reports.append(
                Report("--deduplicate", "rows kept whose text is there with another label", contradictions)
            )
    return kept, reports


def shared_texts(rows: Iterable[Row], others: Iterable[Row]) -> int:
    """How many rows of `others` have a text that is in `rows`: a held-out row should not be in training."""
    known = {_text(row) for row in rows}
    return sum(_text(row) in known for row in others)


def pack(documents: Iterable[Sequence[int]], length: int, separator: int) -> Iterator[list[int]]:
    """Rows of `length` token ids: documents in their order, each with `separator` before it, cut where full.

    The last row may be shorter; it has two tokens or more, because one token predicts nothing.
    """
    held: list[int] = []
    for document in documents:
        held += [separator, *document]
        full = len(held) - len(held) % length
        yield from (held[first : first + length] for first in range(0, full, length))
        held = held[full:]
    if len(held) > 1:
        yield held


def _normalized(row: AnyRow, form: Literal["nfc", "nfkc"]) -> AnyRow:
    def changed(text: str) -> str:
        return unicodedata.normalize(form.upper(), text)  # type: ignore[arg-type]

    match row:
        case LabelRow():
            pair = None if row.text_pair is None else changed(row.text_pair)
            return replace(row, text=changed(row.text), text_pair=pair)
        case UtteranceRow():
            # NFKC may write one word as two ("½" after a digit); its tag is for one.
            words = tuple("".join(changed(word).split()) or word for word in row.words)
            return replace(row, words=words)
    return replace(row, text=changed(row.text))


def _text(row: Row) -> str:
    match row:
        case LabelRow():
            return row.text if row.text_pair is None else f"{row.text}\n{row.text_pair}"
        case UtteranceRow():
            return " ".join(row.words)
        case TextRow():
            return row.text


def _distinct(rows: Sequence[AnyRow]) -> list[AnyRow]:
    """The first of rows that are equal in everything but their place in the file."""
    first: dict[Row, AnyRow] = {}
    for row in rows:
        first.setdefault(replace(row, row=0), row)
    return list(first.values())
