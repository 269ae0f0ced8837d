"""The calibration of a version, as it travels beside an artifact."""

from __future__ import annotations

import pytest

from runtime.calibration import Calibration, CalibrationError

FOUND = Calibration(1.25, 0.6, "accuracy where answered >= 0.95", 100, {"log loss": 0.25})


def test_what_is_written_is_read() -> None:
    assert Calibration.from_json(FOUND.to_json()) == FOUND
    assert Calibration.from_json("{}") == Calibration()


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[1]", "an object"),
        ("{", "not JSON"),
        ('{"temperature": "hot"}', "temperature"),
        ('{"temperature": 0.001}', "temperature"),
        ('{"temperature": NaN}', "NaN is no finite number"),
        ('{"temperature": 1' + "0" * 400 + "}", "temperature"),
        ('{"temperature": 1, "temperature": 2}', "comes twice"),
        ('{"threshold": 2}', "threshold"),
        ('{"rows": true}', "rows"),
        ('{"rows": -1}', "rows"),
        ('{"rows": 1e300}', "rows"),
        ('{"figures": {"a": Infinity}}', "Infinity is no finite number"),
        ('{"figures": {"a": "1"}}', "figures.a"),
        ('{"figures": [1]}', "figures"),
        ('{"bias": 1}', "bias"),
    ],
)
def test_what_is_wrong_is_named(text: str, field: str) -> None:
    with pytest.raises(CalibrationError, match=field):
        Calibration.from_json(text)
