"""Checks that need all rows: of one file, and of training, held-out and test files together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from train.data.rows import DataError, LabelRow, Row, UtteranceRow

SHOWN = 8  # names in a message


def check_rows(train: tuple[Path, Sequence[Row]], others: Mapping[Path, Sequence[Row]] | None = None) -> None:
    """Raise DataError where the training rows cannot teach, or `others` ask for what is not in them.

    Single-label training needs two classes, multi-label one, regression two different numbers, nlu one
    intent. A class, intent or tag of `others` (held-out and test rows by file) must be in the training rows.
    A file has pairs of texts in all of its rows or in none, and so have all files together.
    """
    path, rows = train
    known: dict[str, set[str]] = {}
    pairs = _has_pairs(rows)
    for row in rows:
        for field, names in _names(row):
            known.setdefault(field, set()).update(names)
    _check_variety(path, rows, known.get("label", set()))
    for where, found in {path: rows, **(others or {})}.items():
        for row in found:
            if isinstance(row, LabelRow) and (row.text_pair is not None) != pairs:
                needed = "a pair of texts" if pairs else "one text"
                raise DataError(
                    where, row.row, "text_pair", f"the first row of {path} has {needed}, this not"
                )
            for field, names in _names(row):
                _check_known(where, row.row, field, names, known.get(field, set()))


def _has_pairs(rows: Sequence[Row]) -> bool:
    first = rows[0]
    return isinstance(first, LabelRow) and first.text_pair is not None


def _names(row: Row) -> Iterable[tuple[str, Sequence[str]]]:
    """The classes, or the intent and the tags of a row, by field."""
    match row:
        case LabelRow(label=str(name)):
            yield "label", (name,)
        case LabelRow(label=tuple(names)):
            yield "label", names
        case UtteranceRow():
            yield "intent", (row.intent,)
            yield "tags", row.tags


def _check_variety(path: Path, rows: Sequence[Row], classes: set[str]) -> None:
    labels = {row.label for row in rows if isinstance(row, LabelRow)}
    if not labels:
        return
    if any(isinstance(label, tuple) for label in labels):
        if not classes:
            raise DataError(path, None, "label", "no row has a class")
    elif len(labels) < 2:
        (only,) = labels
        raise DataError(path, None, "label", f"all {len(rows)} rows have the label {only!r}: two are needed")


def _check_known(path: Path, row: int, field: str, names: Sequence[str], known: set[str]) -> None:
    for name in names:
        if name not in known:
            shown = ", ".join(sorted(known)[:SHOWN]) + (", ..." if len(known) > SHOWN else "")
            raise DataError(
                path, row, field, f"{name!r} is in no row of the training data, which has {shown}"
            )
