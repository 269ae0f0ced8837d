"""Reads the rows of JSON lines, CSV, TSV and plain text. What is wrong is an error with file, row and field.

| kind | JSON lines | CSV, TSV columns | text |
| --- | --- | --- | --- |
| lm | text | text | documents, with `<|endoftext|>` or else empty lines between them |
| classifier | text, text_pair?, label | text, text_pair?, label | |
| nlu | tokens, tags, intent; or text, intent, slots | text, tags, intent | |
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, overload

from runtime.strict_json import parse
from train.data.lines import read_lines, read_records
from train.data.rows import DataError, Kind, Label, LabelRow, Problem, Row, TextRow, UtteranceRow
from train.data.utterances import read_utterance

MAX_ROW_BYTES = 8 << 20
JSON_SUFFIXES = (".jsonl", ".json")
TABLE_SUFFIXES = (".csv", ".tsv")
TEXT_SUFFIX = ".txt"
SEPARATOR = "<|endoftext|>"
MISSING = ("nan", "NaN", "NAN")  # a missing value as pandas and NumPy write it
SHOWN = 60  # characters of a value in a message


@overload
def read_rows(path: Path, kind: Literal[Kind.LM, "lm"], *, limit: int = ...) -> list[TextRow]: ...


@overload
def read_rows(
    path: Path,
    kind: Literal[Kind.CLASSIFIER, "classifier"],
    *,
    problem: Problem | str = ...,
    limit: int = ...,
) -> list[LabelRow]: ...


@overload
def read_rows(path: Path, kind: Literal[Kind.NLU, "nlu"], *, limit: int = ...) -> list[UtteranceRow]: ...


@overload
def read_rows(
    path: Path, kind: Kind | str, *, problem: Problem | str = ..., limit: int = ...
) -> list[TextRow] | list[LabelRow] | list[UtteranceRow]: ...


def read_rows(
    path: Path,
    kind: Kind | str,
    *,
    problem: Problem | str = Problem.SINGLE,
    limit: int = MAX_ROW_BYTES,
) -> list[Any]:
    """All rows of a file, in its order; the suffix chooses the format.

    `problem` says how a classifier's labels are read; `limit` is the most bytes of a row. Raises DataError at
    the first row that cannot be used, and where there is none; never holds more than `limit` bytes of a row.
    """
    kind, problem, suffix = Kind(kind), Problem(problem), path.suffix.lower()
    try:
        if suffix in JSON_SUFFIXES:
            rows = [parse_row(path, n, value, kind, problem) for n, value in _objects(path, limit)]
        elif suffix in TABLE_SUFFIXES:
            rows = [
                parse_row(path, n, _cells(path, n, r), kind, problem) for n, r in read_records(path, limit)
            ]
        elif suffix == TEXT_SUFFIX and kind is Kind.LM:
            rows = _documents(path, limit)
        else:
            raise DataError(path, None, None, f"a {kind.value} reads {', '.join(suffixes(kind))}")
    except OSError as error:
        raise DataError(path, None, None, error.strerror or str(error)) from error
    if not rows:
        raise DataError(path, None, None, "there are no rows in the file")
    return rows


def suffixes(kind: Kind) -> tuple[str, ...]:
    """Of files with rows for a kind of model."""
    return (*JSON_SUFFIXES, *TABLE_SUFFIXES, *((TEXT_SUFFIX,) if kind is Kind.LM else ()))


def _objects(path: Path, limit: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON object of each line; empty lines are left out."""
    for number, line in read_lines(path, limit):
        if not line.strip():
            continue
        try:
            value = parse(line)
        except (ValueError, RecursionError) as error:
            hint = "; one object a line is read, not one list" if number == 1 and line[:1] == "[" else ""
            raise DataError(path, number, None, f"no JSON object: {str(error)[:200]}{hint}") from None
        if not isinstance(value, dict):
            raise DataError(path, number, None, "a JSON object is needed on each line")
        yield number, value


def _cells(path: Path, row: int, record: dict[str, str]) -> dict[str, str]:
    """The record; a cell that stands for a missing value is an error."""
    for column, value in record.items():
        if value.strip() in MISSING:
            raise DataError(
                path, row, column, f"{value.strip()} stands for a missing value: fill or drop the row"
            )
    return record


def _documents(path: Path, limit: int) -> list[Row]:
    """Documents with SEPARATOR lines between them, or, where the file has none, with empty lines."""
    lines = list(read_lines(path, limit))
    separated = any(line.strip() == SEPARATOR for _, line in lines)
    rows: list[Row] = []
    held: list[tuple[int, str]] = []
    for number, line in [*lines, (0, SEPARATOR if separated else "")]:
        if line.strip() != (SEPARATOR if separated else ""):
            held.append((number, line))
            continue
        text = "\n".join(each for _, each in held).strip()
        if text:
            rows.append(TextRow(next(first for first, each in held if each.strip()), text))
        held = []
    return rows


def parse_row(path: Path, number: int, values: dict[str, Any], kind: Kind, problem: Problem) -> Row:
    """A row of JSON lines or of a table. `path` and `number` are for messages. Raises DataError."""
    if kind is Kind.NLU:
        return read_utterance(path, number, values)
    text = _text(path, number, values, "text")
    if kind is Kind.LM:
        return TextRow(number, text)
    pair = _text(path, number, values, "text_pair") if values.get("text_pair") is not None else None
    if "label" not in values:
        raise _absent(path, number, values, "label")
    return LabelRow(number, text, pair, _label(path, number, values["label"], problem))


def _text(path: Path, row: int, values: dict[str, Any], field: str) -> str:
    if field not in values:
        raise _absent(path, row, values, field)
    value = values[field]
    if not isinstance(value, str):
        raise DataError(path, row, field, f"{str(value)[:SHOWN]!r} is no text")
    if not value.strip():
        raise DataError(path, row, field, "the text is empty")
    return value.strip()


def _absent(path: Path, row: int, values: dict[str, Any], field: str) -> DataError:
    found = ", ".join(map(repr, list(values)[:10])) or "none"
    return DataError(path, row, field, f"there is no such field; those of the row are {found}")


def _label(path: Path, row: int, value: Any, problem: Problem) -> Label:
    """A label of the problem. A whole number is a class too, as many data sets number their classes."""
    match problem, value:
        case Problem.SINGLE, str() if value.strip():
            return value.strip()
        case Problem.SINGLE, int() if not isinstance(value, bool):
            return str(value)
        case Problem.MULTI, str():
            return tuple(name.strip() for name in value.split("|") if name.strip())
        case Problem.MULTI, list() if all(isinstance(name, str) and name.strip() for name in value):
            return tuple(dict.fromkeys(name.strip() for name in value))
        case Problem.REGRESSION, str() | int() | float() if not isinstance(value, bool):
            if (number := _number(value)) is not None:
                return number
    needed = {
        Problem.SINGLE: "the name of one class",
        Problem.MULTI: "a list of classes, or text with | between them",
        Problem.REGRESSION: "a finite number",
    }
    raise DataError(
        path, row, "label", f"{str(value)[:SHOWN]!r}: {needed[problem]} is needed ({problem.value})"
    )


def _number(value: str | int | float) -> float | None:
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
