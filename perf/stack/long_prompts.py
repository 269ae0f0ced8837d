"""Times between the tokens of running streams, without and with long prompts that arrive meanwhile.

Streams are a closed loop; long prompts, each of which wants one token, an open loop with constant arrivals.
What counts are the intervals of the streams that ended within the window; a token that came together with
others counts with its share of their interval, as everywhere in `perf.http`.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median

from perf.distribution import Distribution
from perf.errors import LoadError
from perf.http.ask import Api, Ask, Task, requests
from perf.http.figures import Round, intervals
from perf.http.load import ClosedLoop, Load, OpenLoop
from perf.http.progress import Progress
from perf.http.prompts import Texts
from perf.http.run import in_event_loop
from perf.http.schedule import Arrivals, Extent, intended_times
from perf.report import markdown_table, spread
from perf.stack.report import Bound, Report, Target
from perf.stack.running import Stack, answered, fresh_seed
from runtime.contract import Kind

TARGET = Target("p99 between tokens with long prompts, of that without,", Bound.AT_MOST, 3.0, ".2f", " x")
LONG = Ask(Task.GENERATE, max_tokens=1, ignore_eos=True)
SHORT = Texts(24)
TIMEOUT = 120.0  # seconds of one request


@dataclass(frozen=True, slots=True)
class Plan:
    """Two loads on one stack, and when they run."""

    stack: Stack
    model: str
    ask: Ask  # of the streams
    long: Texts
    streams: int
    rate: float  # long prompts per second
    extent: Extent

    async def run(self, seed: str, *, with_long: bool) -> tuple[Round, Round | None]:
        """The streams, and the long prompts. Raises LoadError where a request failed."""
        loads: list[Load] = [
            ClosedLoop(
                self.stack.origin, self._requests(self.ask, SHORT, seed), self.extent, TIMEOUT, self.streams
            )
        ]
        if with_long:
            times = intended_times(self.rate, Arrivals.CONSTANT, seed, self.extent)
            loads.append(
                OpenLoop(
                    self.stack.origin, self._requests(LONG, self.long, seed), self.extent, TIMEOUT, times
                )
            )
        runs = await asyncio.gather(*(load.run() for load in loads))
        return answered(runs[0], self.ask), answered(runs[1], LONG) if with_long else None

    def _requests(self, ask: Ask, texts: Texts, seed: str) -> Iterator[bytes]:
        most = 1 + int(self.rate * (self.extent.warmup + self.extent.seconds)) if ask is LONG else None
        return requests(self.stack.origin, Api.LMAAS, self.model, ask, texts, seed, most)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--streams", type=int, default=4, help="under way all the time")
    parser.add_argument("--max-tokens", type=int, default=256, help="of a stream")
    parser.add_argument("--prompt-tokens", type=int, default=1000, help="of a long prompt")
    parser.add_argument("--rate", type=float, default=1.0, help="long prompts per second")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--warmup", type=float, default=2.0, help="seconds before each")
    parser.add_argument("--rounds", type=int, default=3)


def measure(stack: Stack, options: argparse.Namespace) -> Report:
    deployed = stack.deployed(Kind.LM, options.model)
    plan = Plan(
        stack,
        deployed.model,
        Ask(Task.GENERATE, options.max_tokens, ignore_eos=True),
        Texts(0, options.prompt_tokens, str(stack.folder(deployed))),
        options.streams,
        options.rate,
        Extent(options.warmup, options.seconds),
    )
    progress = Progress()
    without: list[Round] = []
    disturbed: list[Round] = []
    long: list[Round] = []
    for number in range(options.rounds):
        for with_long in (False, True) if number % 2 == 0 else (True, False):
            streams, prompts = in_event_loop(plan.run(fresh_seed("long-prompts"), with_long=with_long))
            (disturbed if with_long else without).append(streams)
            long += [] if prompts is None else [prompts]
            name = "with long prompts" if with_long else "without"
            progress.say(f"{name}: p99 {1000 * between_tokens([streams]).p99:.1f} ms")
    calm, busy = between_tokens(without), between_tokens(disturbed)
    waits = Distribution.of([outcome.seconds for each in long for outcome in each.measured])
    if waits is None:
        raise LoadError("no long prompt was answered: --seconds times --rate must be one or more")
    columns = ("", "p50, ms", "p99, ms", "most, ms", "p99 by round, ms", "tokens/s")
    rows = [_row("without", calm, without), _row("with long prompts", busy, disturbed)]
    return Report(
        f"{deployed.label}, {stack.slots(deployed)} slots: {plan.streams} streams"
        f" ({plan.ask.described(SHORT)}), without and with {plan.rate:g} prompts of"
        f" {plan.long.length} a second. {options.rounds} rounds of {plan.extent.seconds:g} s after"
        f" {plan.extent.warmup:g} s, in turn. Between tokens, all rounds together; the p99 with long prompts"
        f" is {busy.p99 / calm.p50:.2f} times the p50 without. Long prompts were answered in"
        f" {waits.p50:.2f} s (p50), {waits.most:.2f} s at most.",
        [(TARGET, busy.p99 / calm.p99)],
        markdown_table(columns, rows),
        {
            "without": asdict(calm),
            "with_long_prompts": asdict(busy),
            "long_prompt_seconds": asdict(waits),
        },
    )


def between_tokens(rounds: Sequence[Round]) -> Distribution:
    """Seconds between the tokens that arrived within the windows. Raises LoadError."""
    streams = [
        replace(outcome, arrivals=[arrival for arrival in outcome.arrivals if each.within(arrival[0])])
        for each in rounds
        for outcome in each.every
    ]
    gaps, tokens = intervals(streams)
    found = Distribution.of([gap / size for gap, size in zip(gaps, tokens, strict=True)], tokens)
    if found is None:
        raise LoadError("no stream had two events within the window: --seconds must be more")
    return found


def _row(name: str, found: Distribution, rounds: Sequence[Round]) -> tuple[str, ...]:
    by_round = [1000 * between_tokens([each]).p99 for each in rounds]
    times = (f"{1000 * value:.2f}" for value in (found.p50, found.p99, found.most))
    return name, *times, spread(by_round), f"{median(each.tokens_per_second for each in rounds):.0f}"
