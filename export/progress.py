"""How far an export is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` stages are behind; `stage` is the one that begins."""

    stage: str
    done: int
    total: int
