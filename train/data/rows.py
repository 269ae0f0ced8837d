"""The rows of all data sets, by kind of model, and the error that names one of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from runtime.contract import Kind

__all__ = ["DataError", "Kind", "Label", "LabelRow", "Problem", "Row", "TextRow", "UtteranceRow"]

# One class, several classes (multi-label), or a number (regression).
Label = str | tuple[str, ...] | float


class Problem(str, Enum):
    """What a classifier answers for a text."""

    SINGLE = "single"
    MULTI = "multi"
    REGRESSION = "regression"

    @property
    def problem_type(self) -> str:
        """Its name in config.json, as in transformers."""
        return {
            Problem.SINGLE: "single_label_classification",
            Problem.MULTI: "multi_label_classification",
            Problem.REGRESSION: "regression",
        }[self]


@dataclass(frozen=True, slots=True)
class TextRow:
    """A document. `row` is the 1-based line of the file at which it begins, also in the other rows."""

    row: int
    text: str


@dataclass(frozen=True, slots=True)
class LabelRow:
    """A text, or a pair of texts, with its label."""

    row: int
    text: str
    text_pair: str | None
    label: Label


@dataclass(frozen=True, slots=True)
class UtteranceRow:
    """The words of an utterance, one BIO tag for each, and the intent."""

    row: int
    words: tuple[str, ...]
    tags: tuple[str, ...]
    intent: str


Row = TextRow | LabelRow | UtteranceRow


class DataError(ValueError):
    """A data file cannot be used. `row` is a 1-based line number, or None where the whole file is meant."""

    def __init__(self, path: Path, row: int | None, field: str | None, message: str) -> None:
        where = [str(path), *([f"row {row}"] if row is not None else []), *([field] if field else [])]
        super().__init__(f"{': '.join(where)}: {message}")
        self.path = path
        self.row = row
        self.field = field
        self.message = message
