"""Intervals and tests of significance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from runtime.contract import Kind
from train.evaluation.bootstrap import Resampling
from train.evaluation.comparison import MCNEMAR, compare, mcnemar
from train.evaluation.errors import EvaluationError
from train.evaluation.evaluate import Evaluation
from train.evaluation.measured import Measured
from train.evaluation.speed import Latency, Speed
from train.evaluation.target import Description

RIGHT = np.arange(400) % 5 > 0  # 80 %


def evaluation(right: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], resampling: Resampling) -> Evaluation:
    measured = Measured(
        rows=len(right),
        main={
            "accuracy": lambda rows: float(right[rows].mean()),
            "other": lambda rows: float(right[rows].mean()),
        },
        correct={"accuracy": right},
    )
    figures = {name: resampling.figure(value, len(right)) for name, value in measured.main.items()}
    about = Description("m", "artifact", Kind.CLASSIFIER)
    return Evaluation(about, measured, figures, Speed("row", None, None, None, None))


def test_an_interval_is_that_of_the_binomial() -> None:
    found = evaluation(RIGHT, Resampling()).figures["accuracy"]
    assert found.value == 0.8
    assert found.interval is not None
    # 1.96 standard deviations of a share of 400 rows: 0.0392.
    assert found.interval == pytest.approx((0.8 - 0.0392, 0.8 + 0.0392), abs=0.006)


def test_the_same_seed_gives_the_same_interval() -> None:
    first, again = (evaluation(RIGHT, Resampling(seed=4)).figures for _ in range(2))
    assert first == again
    assert evaluation(RIGHT, Resampling(seed=5)).figures != first


def test_without_resamples_there_is_no_interval() -> None:
    assert evaluation(RIGHT, Resampling(0)).figures["accuracy"].interval is None
    assert evaluation(RIGHT[:1], Resampling()).figures["accuracy"].interval is None


def test_a_statistic_that_some_resamples_lack_has_no_interval() -> None:
    found = Resampling(50).figure(lambda rows: 1.0 if 0 in rows else float("nan"), 3)
    assert (found.value, found.interval) == (1.0, None)


@pytest.mark.parametrize(
    ("only_first", "only_second", "expected"), [(0, 0, 1.0), (0, 6, 2 / 64), (3, 3, 1.0)]
)
def test_mcnemar_is_exact(only_first: int, only_second: int, expected: float) -> None:
    first = np.array([True] * only_first + [False] * only_second + [True] * 5)
    second = np.array([False] * only_first + [True] * only_second + [True] * 5)
    assert mcnemar(first, second) == pytest.approx(expected)


def test_two_targets_on_the_same_rows() -> None:
    resampling = Resampling()
    better = RIGHT.copy()
    better[:100] = True  # 20 more rows are right, and none less
    found = compare(evaluation(RIGHT, resampling), evaluation(better, resampling), resampling)
    assert [each.name for each in found] == ["accuracy", "other"]
    assert found[0].test == MCNEMAR
    assert found[0].p_value == pytest.approx(2 * 0.5**20)
    for each in found:
        assert each.difference.value == pytest.approx(0.05)
        assert each.difference.low is not None
        assert each.difference.low > 0.025
    assert found[1].p_value == pytest.approx(2 / 1001)
    one = evaluation(RIGHT, resampling)
    same = compare(one, one, resampling)
    assert [each.p_value for each in same] == [1.0, 1.0]


def test_two_targets_on_other_rows_are_refused() -> None:
    first, second = (evaluation(RIGHT[:count], Resampling(0)) for count in (10, 11))
    with pytest.raises(EvaluationError, match="10 rows count for m, but 11"):
        compare(first, replace(second), Resampling(0))


def test_percentiles_of_latency_were_measured() -> None:
    found = Latency.of([value / 1000 for value in range(1, 101)])
    assert (found.p50, found.p95, found.p99, found.count) == (0.050, 0.095, 0.099, 100)
