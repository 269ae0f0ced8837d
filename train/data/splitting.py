"""A held-out share of rows, for data that comes in one file."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

from train.data.rows import LabelRow, Row, UtteranceRow

AnyRow = TypeVar("AnyRow", bound=Row)


def split_rows(rows: Sequence[AnyRow], share: float, seed: int) -> tuple[list[AnyRow], list[AnyRow]]:
    """Rows to train on, and a `share` of them held out (at least one), both in the order of the file.

    Classes and intents keep their shares; a class with one row stays in training. The same seed gives the
    same split. Raises ValueError where nothing is left for one of the two.
    """
    groups: defaultdict[object, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        groups[_group(row)].append(index)
    generator = random.Random(seed)
    held_out: set[int] = set()
    for members in groups.values():
        generator.shuffle(members)
        # A group's share is rounded up or down by chance, so that many small groups give the whole's share.
        count = min(int(len(members) * share + generator.random()), len(members) - 1)
        held_out.update(members[:count])
    if not held_out:
        largest = max(groups.values(), key=len, default=[])
        held_out.update(largest[:1])
    if len(held_out) >= len(rows):
        raise ValueError(f"{len(rows)} rows cannot be split into two parts")
    return (
        [row for index, row in enumerate(rows) if index not in held_out],
        [row for index, row in enumerate(rows) if index in held_out],
    )


def _group(row: Row) -> object:
    match row:
        case LabelRow(label=str(label)) | UtteranceRow(intent=label):
            return label
    return None
