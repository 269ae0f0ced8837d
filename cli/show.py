"""How answers look in a terminal: tables for people, JSON for scripts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> None:
    """Print aligned columns without a frame; `empty` is the sentence for no rows."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    # What a model or a caller wrote is text: brackets and colons in it are no markup.
    console = Console(markup=False, emoji=False, highlight=False)
    if not rows:
        console.print(empty)
        return
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    console.print(table)


def print_listing(
    answer: dict[str, Any],
    as_json: bool,
    columns: Sequence[str],
    row: Callable[[dict[str, Any]], Sequence[object]],
    empty: str,
) -> None:
    """Print a listing's answer: as it came for scripts, else one `row` for each item of its `data`."""
    if as_json:
        print_json(answer)
    else:
        print_table(columns, [row(item) for item in answer["data"]], empty)


def size(count: float) -> str:
    """Bytes in words: 10.8 MB."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
