"""Lines and CSV records of a file. At most `limit` bytes of a row are ever in memory."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from train.data.rows import DataError

BOM = b"\xef\xbb\xbf"
Record = tuple[int, dict[str, str]]  # a line number, and the values by column


def read_lines(path: Path, limit: int) -> Iterator[tuple[int, str]]:
    """Line numbers from 1, and lines without their ends. A BOM is dropped, CRLF is a line end.

    Raises DataError for a line that is longer than `limit` bytes, is no UTF-8 or holds a NUL, and OSError.
    """
    with path.open("rb") as file:
        number = 0
        while line := file.readline(limit + 2):
            number += 1
            line = line.removeprefix(BOM) if number == 1 else line
            text = line.removesuffix(b"\n").removesuffix(b"\r")
            if len(text) > limit:
                raise DataError(path, number, None, f"a row of more than {limit:,} bytes, which is the limit")
            yield number, _decode(path, number, text)


def _decode(path: Path, number: int, line: bytes) -> str:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        broken = line[error.start : error.start + 4].hex(" ")
        raise DataError(
            path,
            number,
            None,
            f"no UTF-8 at byte {error.start + 1} of the line ({broken}): save the file as UTF-8",
        ) from None
    if "\0" in text:
        raise DataError(path, number, None, f"a NUL character at position {text.index(chr(0)) + 1}")
    return text


class _Feed:
    """Gives lines to csv.reader, and limits the size of the record that they make up."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._lines = read_lines(path, limit)
        self._size = 0
        self.first = 1
        self._last = 0

    def begin(self) -> None:
        """The next line begins a record."""
        self.first = self._last + 1
        self._size = 0

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        self._last, line = next(self._lines)
        self._size += len(line.encode()) + 1
        if self._size > self._limit + 1:
            raise DataError(
                self._path,
                self.first,
                None,
                f"the row has more than {self._limit:,} bytes, which is the limit: look for a quote that is"
                " not closed",
            )
        return line + "\n"


def read_records(path: Path, limit: int) -> Iterator[Record]:
    """The records of a CSV file (quoted fields) or a TSV file (no quotes) below its row of column names.

    Empty lines are left out. Raises DataError where columns are missing or repeat, where a quote is not
    closed or stands inside of a field, or where a record has another number of values.
    """
    feed = _Feed(path, limit)
    tabs = path.suffix.lower() == ".tsv"
    # The module's limit is one for the process; the feed's own limit is below it.
    csv.field_size_limit(max(csv.field_size_limit(), 2 * limit))
    reader = csv.reader(
        feed,
        delimiter="\t" if tabs else ",",
        quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
        strict=True,
    )
    columns: list[str] | None = None
    while True:
        feed.begin()
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(path, feed.first, None, _explain(str(error))) from None
        if not values:
            continue
        if columns is None:
            columns = _columns(path, feed.first, values)
        elif len(values) != len(columns):
            raise DataError(
                path,
                feed.first,
                None,
                f"{len(values)} values for {len(columns)} columns ({', '.join(columns)})"
                + ("" if tabs else ": a value that holds a comma needs quotes around it"),
            )
        else:
            yield feed.first, dict(zip(columns, values, strict=True))


def _columns(path: Path, row: int, names: list[str]) -> list[str]:
    names = [name.strip() for name in names]
    for name in names:
        if names.count(name) > 1:
            raise DataError(path, row, None, f"the column {name!r} comes twice")
    return names


def _explain(error: str) -> str:
    if "unexpected end of data" in error:
        return "the quote that opens here is not closed"
    return f"no CSV: {error}; a quote inside of a quoted value is written twice"
