"""What an engine says of itself in Triton's metrics, without a server."""

from __future__ import annotations

from typing import Any

import pytest

from api.back.cluster.installation import Installation

LABELS = {"model": "tiny", "version": "1"}


class Gauge:
    def set(self, value: float) -> None:
        self.value = value


@pytest.mark.parametrize(
    ("fallback", "reasons"),
    [(None, []), ("", [""]), ("two\nlines, " + 400 * "x", ["two lines, " + 289 * "x"])],
)
def test_a_load_says_why_no_plan_computes(
    monkeypatch: pytest.MonkeyPatch, fallback: str | None, reasons: list[str]
) -> None:
    monkeypatch.syspath_prepend(str(Installation.find().python_backend))  # where Triton's Python API lies
    from runtime.triton.metrics import FALLBACK, EngineMetrics

    found: list[tuple[dict[str, str], Gauge]] = []

    class Declared(EngineMetrics):
        def _family(self, name: str, description: str, kind: str) -> Any:
            """In place of Triton's, which needs a server."""

            class Family:
                def Metric(self, labels: dict[str, str]) -> Gauge:
                    gauge = Gauge()
                    if name == FALLBACK[0]:
                        found.append((labels, gauge))
                    return gauge

            return Family()

    Declared(LABELS, fallback)
    assert [labels for labels, _ in found] == [{**LABELS, "reason": reason} for reason in reasons]
    assert all(gauge.value > 0 for _, gauge in found)
