"""From outcomes to figures. The terms are defined in the docstring of `perf.http`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from perf.distribution import Distribution
from perf.http.ask import Api, Ask
from perf.http.load import Run
from perf.http.outcome import Outcome, read


@dataclass(frozen=True, slots=True)
class ClientCost:
    """The cost of the client itself, as evidence that it did not limit the figures."""

    cpu_share: float  # of one core, while the load ran
    cpu_seconds_per_piece: float  # a piece: the part of a body that one read returned
    lag: Distribution | None  # seconds from the intended time until a request was sent


@dataclass(frozen=True, slots=True)
class Round:
    """One run at one level, with everything read."""

    begin: float
    end: float
    measured: list[Outcome]
    others: list[Outcome]  # of the warm-up: for throughput alone
    cpu_seconds: float
    seconds: float
    pieces: int

    @classmethod
    def of(cls, run: Run, ask: Ask, api: Api) -> Round:
        measured: list[Outcome] = []
        others: list[Outcome] = []
        for exchange in run.exchanges:
            (measured if exchange.intended >= run.begin else others).append(read(exchange, ask, api))
        pieces = sum(len(exchange.pieces) for exchange in run.exchanges)
        return cls(run.begin, run.end, measured, others, run.cpu_seconds, run.seconds, pieces)

    def within(self, time: float) -> bool:
        return self.begin <= time <= self.end

    @property
    def requests_per_second(self) -> float:
        """A request that crosses an edge of the window counts with the share of it that is inside.

        Counting whole requests would make steps. It is the rate of a steady load only if the warm-up is at
        least as long as an answer.
        """
        return sum(map(self._share, self.every)) / self._length

    def _share(self, outcome: Outcome) -> float:
        if outcome.error is not None:
            return 0.0
        inside = min(outcome.ended, self.end) - max(outcome.intended, self.begin)
        return max(0.0, inside) / max(outcome.seconds, 1e-9)

    @property
    def tokens_per_second(self) -> float:
        arrivals = (arrival for outcome in self.every for arrival in outcome.arrivals)
        return sum(count for time, count in arrivals if self.within(time)) / self._length

    @property
    def _length(self) -> float:
        return max(self.end - self.begin, 1e-9)

    @property
    def every(self) -> list[Outcome]:
        return [*self.others, *self.measured]


@dataclass(frozen=True, slots=True)
class Figures:
    """One level. Rates: one for each round. Distributions, in seconds: over all rounds; None if empty."""

    requests: int
    succeeded: int
    errors: dict[str, int]
    requests_per_second: list[float]
    tokens_per_second: list[float]
    first_token: Distribution | None
    between_tokens: Distribution | None
    between_events: Distribution | None
    end_to_end: Distribution | None
    slowest_over_median: float | None  # the worst round's
    tokens_per_event: float | None
    prompt_tokens: Distribution | None
    counted_by: list[str]
    client: ClientCost

    @classmethod
    def of(cls, rounds: Sequence[Round], ask: Ask) -> Figures:
        measured = [outcome for each in rounds for outcome in each.measured]
        whole = [outcome for outcome in measured if outcome.error is None]
        streams = [outcome for outcome in whole if outcome.arrivals] if ask.streamed else []
        events = sum(len(outcome.arrivals) for outcome in streams)
        gaps, tokens = intervals(streams)
        return cls(
            requests=len(measured),
            succeeded=len(whole),
            errors=dict(Counter(outcome.error for outcome in measured if outcome.error).most_common()),
            requests_per_second=[each.requests_per_second for each in rounds],
            tokens_per_second=[each.tokens_per_second for each in rounds],
            first_token=Distribution.of([outcome.arrivals[0][0] - outcome.intended for outcome in streams]),
            between_tokens=Distribution.of([gap / k for gap, k in zip(gaps, tokens, strict=True)], tokens),
            between_events=Distribution.of(gaps),
            end_to_end=Distribution.of([outcome.seconds for outcome in whole]),
            slowest_over_median=max(filter(None, map(_slowest_over_median, rounds)), default=None),
            tokens_per_event=sum(outcome.tokens for outcome in streams) / events if events else None,
            prompt_tokens=Distribution.of(
                [outcome.prompt_tokens for outcome in whole if outcome.prompt_tokens is not None]
            ),
            counted_by=sorted({outcome.counted_by for outcome in whole if outcome.counted_by}),
            client=_client(rounds, measured),
        )

    @property
    def rate(self) -> float:
        """Requests per second, the median round's."""
        return median(self.requests_per_second)

    @property
    def token_rate(self) -> float:
        return median(self.tokens_per_second)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def intervals(streams: Iterable[Outcome]) -> tuple[list[float], list[float]]:
    """Seconds between the events of each stream, and how many tokens the later one brought."""
    gaps, tokens = [], []
    for outcome in streams:
        for (before, _), (after, count) in pairwise(outcome.arrivals):
            gaps.append(after - before)
            tokens.append(count)
    return gaps, tokens


def _slowest_over_median(each: Round) -> float | None:
    seconds = [outcome.seconds for outcome in each.measured if outcome.error is None]
    return max(seconds) / median(seconds) if seconds else None


def _client(rounds: Sequence[Round], measured: Sequence[Outcome]) -> ClientCost:
    cpu = sum(each.cpu_seconds for each in rounds)
    return ClientCost(
        cpu_share=cpu / max(1e-9, sum(each.seconds for each in rounds)),
        cpu_seconds_per_piece=cpu / max(1, sum(each.pieces for each in rounds)),
        lag=Distribution.of([outcome.sent - outcome.intended for outcome in measured]),
    )
