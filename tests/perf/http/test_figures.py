"""Figures from outcomes whose figures can be told by hand."""

from __future__ import annotations

import pytest

from perf.http.ask import Ask, Task
from perf.http.figures import Figures, Round
from perf.http.outcome import Outcome

STREAMED = Ask(Task.GENERATE)


def stream(intended: float, *arrivals: tuple[float, float], error: str | None = None) -> Outcome:
    """Times of arrivals are seconds after the request was intended; the last one ends it."""
    timed = [(intended + after, count) for after, count in arrivals]
    return Outcome(intended, intended + 0.01, timed[-1][0] if timed else intended, error, timed, 5, "ids")


def figures(*measured: Outcome, others: list[Outcome] | None = None, ask: Ask = STREAMED) -> Figures:
    whole = Round(10.0, 20.0, list(measured), others or [], cpu_seconds=1.0, seconds=12.0, pieces=50)
    return Figures.of([whole], ask)


def test_times_of_a_stream() -> None:
    found = figures(stream(10, (0.5, 2), (1.5, 1), (2.5, 4)))
    assert found.first_token is not None
    assert found.first_token.p50 == pytest.approx(0.5)
    assert found.between_events is not None
    assert found.between_events.count == 2
    assert found.between_events.mean == pytest.approx(1.0)
    # One token after a second, then four that came a second later: four intervals of a quarter.
    assert found.between_tokens is not None
    assert found.between_tokens.count == 5
    assert found.between_tokens.mean == pytest.approx(2 / 5)
    assert (found.between_tokens.p50, found.between_tokens.p99) == (0.25, 1.0)
    assert found.end_to_end is not None
    assert found.end_to_end.most == pytest.approx(2.5)
    assert found.tokens_per_event == pytest.approx(7 / 3)


def test_throughput_is_what_arrives_within_the_window() -> None:
    early = stream(9, (0.5, 3), (2, 5))  # of the warm-up: its second event is within
    late = stream(19, (0.5, 2), (2, 7))  # ends after the window
    found = figures(stream(11, (1, 4)), late, others=[early])
    assert found.tokens_per_second == [pytest.approx((5 + 4 + 2) / 10)]
    assert found.requests_per_second == [pytest.approx(2 / 10)]
    assert (found.requests, found.succeeded) == (2, 2)


def test_failed_requests_are_counted_and_have_no_times() -> None:
    failed = stream(11, (0.001, 1), error="429 overloaded")
    found = figures(stream(10, (1, 1)), failed, stream(12, error="timeout"), failed)
    assert found.errors == {"429 overloaded": 2, "timeout": 1}
    assert (found.requests, found.succeeded) == (4, 1)
    assert found.first_token is not None
    assert (found.first_token.count, found.first_token.least) == (1, 1.0)


def test_fairness_is_the_slowest_over_the_median() -> None:
    found = figures(*(stream(10, (seconds, 1)) for seconds in (1.0, 2.0, 3.0, 5.0, 2.0)))
    assert found.slowest_over_median == pytest.approx(2.5)


def test_answers_that_are_not_streamed_have_no_first_token() -> None:
    found = figures(stream(10, (1, 4)), ask=Ask(Task.GENERATE, stream=False))
    assert (found.first_token, found.between_tokens, found.tokens_per_event) == (None, None, None)
    assert found.tokens_per_second == [pytest.approx(0.4)]


def test_nothing_measured() -> None:
    found = figures()
    assert (found.requests, found.end_to_end, found.slowest_over_median, found.errors) == (0, None, None, {})


def test_rounds_are_one_distribution_and_a_rate_each() -> None:
    rounds = [
        Round(10.0 * start, 10.0 * start + 10, [stream(10 * start, (start, 10 * start))], [], 1.0, 10.0, 1)
        for start in (1, 2, 3)
    ]
    found = Figures.of(rounds, STREAMED)
    assert found.tokens_per_second == [pytest.approx(value) for value in (1, 2, 3)]
    assert found.token_rate == pytest.approx(2)
    assert found.first_token is not None
    assert (found.first_token.count, found.first_token.p50) == (3, 2.0)


def test_what_the_client_cost() -> None:
    client = figures(stream(10, (1, 1))).client
    assert client.cpu_share == pytest.approx(1 / 12)
    assert client.cpu_seconds_per_piece == pytest.approx(0.02)
    assert client.lag is not None
    assert client.lag.p99 == pytest.approx(0.01)
