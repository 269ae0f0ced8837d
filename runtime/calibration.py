"""What corrects the scores of one model version: a temperature, and a threshold under which it abstains.

It is found from labelled rows (`lmaas calibrate`), stored with the version, and travels beside the artifact
as CALIBRATION_FILE. Standard library only: exporter, Model Store and engine read it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any

from runtime.strict_json import parse

CALIBRATION_FILE = "calibration.json"
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.01, 100.0
MAX_TEXT = 200  # characters of the criterion, and of the name of a figure
MAX_FIGURES = 50
MAX_ROWS = 10**9


class CalibrationError(ValueError):
    """The message names the field."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Raises CalibrationError where a value is out of its limits."""

    temperature: float = 1.0  # by which the logits of the labels are divided (Guo et al. 2017)
    threshold: float | None = None  # an answer whose highest score is less abstains; None: none does
    criterion: str = ""  # by which the threshold was chosen, for people
    rows: int = 0  # that it was found from
    figures: dict[str, float] = field(default_factory=dict)  # measured on those rows, by name

    def __post_init__(self) -> None:
        if not LOWEST_TEMPERATURE <= self.temperature <= HIGHEST_TEMPERATURE:
            allowed = f"it goes from {LOWEST_TEMPERATURE} to {HIGHEST_TEMPERATURE:g}"
            raise CalibrationError(f"temperature: {self.temperature}, but {allowed}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise CalibrationError(f"threshold: {self.threshold}, but it goes from 0 to 1")
        if not 0 <= self.rows <= MAX_ROWS:
            raise CalibrationError(f"rows: {self.rows}, but it goes from 0 to {MAX_ROWS}")
        if len(self.figures) > MAX_FIGURES or not all(map(math.isfinite, self.figures.values())):
            raise CalibrationError(f"figures: at most {MAX_FIGURES} numbers are kept")
        if max(map(len, (self.criterion, *self.figures))) > MAX_TEXT:
            raise CalibrationError(f"criterion: a text has at most {MAX_TEXT} characters")

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Calibration:
        """Raises CalibrationError."""
        try:
            data = parse(text if isinstance(text, str) else text.decode())
        except (ValueError, RecursionError) as error:
            raise CalibrationError(f"{CALIBRATION_FILE}: not JSON ({error})") from None
        if not isinstance(data, dict):
            raise CalibrationError(f"{CALIBRATION_FILE}: an object is needed")
        known = {item.name for item in dataclasses.fields(cls)}
        for name in data:
            if name not in known:
                raise CalibrationError(f"{CALIBRATION_FILE}: {name[:MAX_TEXT]!r}: unknown field")
        figures = data.get("figures") or {}
        if not isinstance(figures, dict):
            raise CalibrationError("figures: an object from names to numbers is needed")
        return cls(
            _number("temperature", data.get("temperature", 1.0)),
            None if data.get("threshold") is None else _number("threshold", data["threshold"]),
            str(data.get("criterion", "")),
            int(_number("rows", data.get("rows", 0))),
            {name: _number(f"figures.{name[:MAX_TEXT]}", value) for name, value in figures.items()},
        )


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CalibrationError(f"{name}: a number is needed")
    try:
        return float(value)
    except OverflowError:
        raise CalibrationError(f"{name}: a number of more than 300 digits") from None
