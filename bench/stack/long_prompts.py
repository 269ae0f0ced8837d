"""Times between the tokens of running streams, without and with long prompts that arrive meanwhile.

Streams are a closed loop. Long prompts are an open loop with constant arrivals; each asks for one token. The
figures are of the intervals that ended within the window; a token that came together with others counts with
its share of their interval, as everywhere in `perf.http`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Annotated

import typer

from bench.stack.report import (
    Bound,
    MaxTokens,
    Model,
    Name,
    Pid,
    PromptTokens,
    Report,
    Rounds,
    Seconds,
    Target,
    Warmup,
    publish,
)
from bench.stack.running import Stack, answered, fresh_seed
from cli.command import Url
from client.http import DEFAULT_URL
from perf.distribution import Distribution
from perf.errors import LoadError
from perf.http.ask import Api, Ask, Task, requests
from perf.http.figures import Round, intervals
from perf.http.load import Arrivals, ClosedLoop, Extent, Load, OpenLoop, intended_times
from perf.http.progress import Progress
from perf.http.prompts import Texts
from perf.http.run import in_event_loop
from perf.report import markdown_table, spread
from runtime.contract import Kind

TARGET = Target("p99 between tokens with long prompts, of that without,", Bound.AT_MOST, 3.0, ".2f", " x")
LONG = Ask(Task.GENERATE, max_tokens=1, ignore_eos=True)
SHORT = Texts(24)
TIMEOUT = 120.0  # seconds of one request


@dataclass(frozen=True, slots=True)
class Loads:
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


def long_prompts(
    model: Model = None,
    streams: Annotated[int, typer.Option(help="Under way all the time.", min=1)] = 4,
    max_tokens: MaxTokens = 256,
    prompt_tokens: PromptTokens = 1000,
    rate: Annotated[float, typer.Option(help="Long prompts per second.")] = 1.0,
    seconds: Seconds = 10.0,
    warmup: Warmup = 2.0,
    rounds: Rounds = 3,
    url: Url = DEFAULT_URL,
    pid: Pid = None,
    name: Name = "stack-long-prompts",
) -> None:
    stack = Stack.find(url, pid)
    deployed = stack.deployed(Kind.LM, model)
    ask = Ask(Task.GENERATE, max_tokens, ignore_eos=True)
    long = Texts(0, prompt_tokens, str(stack.folder(deployed)))
    loads = Loads(stack, deployed.model, ask, long, streams, rate, Extent(warmup, seconds))
    found = measure(loads, rounds)
    calm, busy = between_tokens(found.without), between_tokens(found.with_long)
    waits = Distribution.of([outcome.seconds for each in found.long for outcome in each.measured])
    if waits is None:
        raise LoadError("no long prompt was answered: --seconds times --rate must be one or more")
    columns = ("", "p50, ms", "p99, ms", "most, ms", "p99 by round, ms", "tokens/s")
    rows = [_row("without", calm, found.without), _row("with long prompts", busy, found.with_long)]
    report = Report(
        f"{deployed.label}, {stack.slots(deployed)} slots: {streams} streams ({ask.described(SHORT)}),"
        f" without and with {rate:g} prompts of {long.length} a second."
        f" {rounds} rounds of {seconds:g} s after {warmup:g} s, in turn. Between tokens, all rounds together;"
        f" the p99 with long prompts is {busy.p99 / calm.p50:.2f} times the p50 without."
        f" Long prompts were answered in {waits.p50:.2f} s (p50), {waits.most:.2f} s at most.",
        [(TARGET, busy.p99 / calm.p99)],
        markdown_table(columns, rows),
        {
            "without": asdict(calm),
            "with_long_prompts": asdict(busy),
            "long_prompt_seconds": asdict(waits),
        },
    )
    publish(name, report)


@dataclass(frozen=True, slots=True)
class Found:
    """The streams without and with long prompts, and the long prompts: one item for each round."""

    without: list[Round] = field(default_factory=list)
    with_long: list[Round] = field(default_factory=list)
    long: list[Round] = field(default_factory=list)


def measure(loads: Loads, rounds: int) -> Found:
    """Raises LoadError."""
    found, progress = Found(), Progress()
    for number in range(rounds):
        for with_long in (False, True) if number % 2 == 0 else (True, False):
            streams, prompts = in_event_loop(loads.run(fresh_seed("long-prompts"), with_long=with_long))
            (found.with_long if with_long else found.without).append(streams)
            found.long.extend([] if prompts is None else [prompts])
            name = "with long prompts" if with_long else "without"
            progress.say(f"{name}: p99 {1000 * between_tokens([streams]).p99:.1f} ms")
    return found


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
