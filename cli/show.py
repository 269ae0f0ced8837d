"""How answers look in a terminal: tables for people, JSON for scripts."""

from __future__ import annotations

import json
import math
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

PIPE_WIDTH = 1000
SHORT = 100  # characters of a name
_STEERING = ("Cc", "Cs", "Zl", "Zp")  # Unicode's categories of control characters, surrogates, line breaks


def print_json(value: Any) -> None:
    # Names of files need not be Unicode.
    print(json.dumps(value, indent=2, ensure_ascii=False).encode(errors="replace").decode())


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> None:
    """Print aligned columns without a frame; `empty` is the sentence for no rows."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    # Brackets and colons in the text of a model or a caller are no markup. Lines are broken for a terminal
    # only: for other programs a row is one line.
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    console = Console(markup=False, emoji=False, highlight=False, width=width)
    if not rows:
        console.print(empty)
        return
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*("" if cell is None else plain(str(cell)) for cell in row))
    console.print(table)


def print_facts(rows: Sequence[tuple[str, str]]) -> None:
    """Print labels with their texts beside them; a text that is empty is left out."""
    shown = [(label, text) for label, text in rows if text]
    indent = max((len(label) for label, _ in shown), default=0) + 4
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE_WIDTH
    for label, text in shown:
        beginning, rest = f"  {label}".ljust(indent), " " * indent
        print(
            textwrap.fill(
                plain(text), max(width, 2 * indent), initial_indent=beginning, subsequent_indent=rest
            )
        )


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


def plain(text: str) -> str:
    """One line without control characters: text that others wrote must not steer the terminal."""
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in _STEERING
        else character
        for character in text
    )


def size(count: float) -> str:
    """Bytes in words: 10.8 MB."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def amount(count: float) -> str:
    """A large number in words: 124.4 M."""
    if count < 10_000:
        return f"{count:,.0f}"
    for unit in ("k", "M"):
        count /= 1000
        if count < 999.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} B"


def listed(items: Iterable[str], most: int = 12) -> str:
    """The first items, each shortened, and the number of the others."""
    names = list(items)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(short, names[:most])) + more


def short(text: str) -> str:
    return text if len(text) <= SHORT else f"{text[: SHORT - 3]}..."


def quality(card: Mapping[str, float] | None) -> str:
    """A quality card in words: perplexity +0.02 %  top-1 99.3 %  KL 0.0002  greedy 23.5 of 32 tokens."""
    return "  ".join(words(card) for key, words in _QUALITY.items() if card and key in card)


# In this order; a figure that a card lacks is left out.
_QUALITY: dict[str, Callable[[Mapping[str, float]], str]] = {
    "perplexity_change": lambda card: f"perplexity {100 * card['perplexity_change']:+.2f} %",
    "top1_agreement": lambda card: f"top-1 {_share(card['top1_agreement'])}",
    "mean_kl": lambda card: f"KL {card['mean_kl']:.2g}",
    "greedy_agreement": lambda card: (
        f"greedy {card['greedy_agreement']:.3g} of {card['greedy_tokens']:.0f} tokens"
    ),
    "label_agreement": lambda card: f"labels {_share(card['label_agreement'])}",
    "label_f1": lambda card: f"F1 {card['label_f1']:.3f}",
    "max_probability_shift": lambda card: f"shift {card['max_probability_shift']:.2g}",
    "slot_agreement": lambda card: f"slots {_share(card['slot_agreement'])}",
    "slot_f1": lambda card: f"slot F1 {card['slot_f1']:.3f}",
    "max_slot_probability_shift": lambda card: f"slot shift {card['max_slot_probability_shift']:.2g}",
}


def _share(share: float) -> str:
    """In percent, rounded down: 100 % is all of them."""
    return f"{math.floor(round(10_000 * share, 3)) / 100:g} %"
