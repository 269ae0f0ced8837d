"""The verdict on a figure, by the median of the ratios of its rounds."""

from __future__ import annotations

import pytest

from bench.compare.pairs import Pair, Verdict, as_data, describe


def rate(*new: float) -> Pair:
    return Pair("in process, batch 1", "tokens/s", True, [100.0] * len(new), list(new))


@pytest.mark.parametrize(
    ("new", "verdict"),
    [
        ((97.1, 97.1, 50.0), Verdict.SAME),
        ((96.9, 96.9, 150.0), Verdict.WORSE),
        ((103.1, 103.1, 50.0), Verdict.BETTER),
    ],
)
def test_the_median_round_decides(new: tuple[float, ...], verdict: Verdict) -> None:
    assert rate(*new).verdict(0.03) is verdict
    # The same ratios of a time: less is better.
    time = Pair("over HTTP, 16 streams", "s to the first token", False, list(new), [100.0] * len(new))
    assert time.verdict(0.03) is verdict


def test_rounds_are_compared_one_by_one() -> None:
    drifting = Pair("a figure", "tokens/s", True, [100.0, 50.0, 20.0], [90.0, 45.0, 18.0])
    assert drifting.ratios == pytest.approx([0.9] * 3)
    assert drifting.verdict(0.11) is Verdict.SAME


def test_the_report_names_what_is_worse() -> None:
    pairs = [rate(90.0, 110.0, 90.0), rate(100.0, 100.0, 99.0)]
    text = describe(pairs, 0.03)
    assert text.startswith(
        "WORSE by more than 3.00% in the median of the rounds: in process, batch 1, tokens/s.\n"
    )
    assert "| 100 (100 to 100) | 90 (90 to 110) | 0.900 (0.900 to 1.100) | 2 of 3 | WORSE |" in text
    assert describe(pairs[1:], 0.03).startswith("No figure is more than 3.00% worse in the median")
    assert as_data(pairs, 0.03)[0]["verdict"] == "WORSE"
