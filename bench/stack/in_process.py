"""Tokens per second over HTTP beside the same prompts through the engine in this process.

Both load the same folder with the same engine.json, and both are a closed loop: each of its streams sends its
next request as soon as it has its answer. While the engine here runs, the stack is up but idle.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import count
from queue import Empty, SimpleQueue
from statistics import median
from typing import Annotated

import typer

from bench.stack.report import (
    Bound,
    MaxTokens,
    Model,
    Name,
    Pid,
    Report,
    Rounds,
    Seconds,
    Target,
    Warmup,
    publish,
)
from bench.stack.running import Stack, without_errors
from cli.command import Url
from client.http import DEFAULT_URL, api_key
from perf.errors import LoadError
from perf.http.ask import Ask, Task
from perf.http.load import Extent
from perf.http.plan import Level, LoadTarget, Plan
from perf.http.progress import Progress
from perf.http.prompts import Texts
from perf.http.run import in_event_loop, seed_of
from perf.http.run import measure as measure_http
from perf.report import markdown_table, spread
from runtime.contract import Fault, Kind
from runtime.engine import Engine
from runtime.load import load_engine
from runtime.messages import Answer, Generated
from runtime.request import Request
from runtime.sampling import SamplingParameters

TARGET = Target("tokens/s over HTTP, of those in process,", Bound.AT_LEAST, 0.85, ".1%")


def in_process(
    model: Model = None,
    streams: Annotated[int, typer.Option(help="Under way at once.", min=1)] = 16,
    prompt_words: Annotated[int, typer.Option(help="Words of a prompt.", min=1)] = 24,
    max_tokens: MaxTokens = 64,
    seconds: Seconds = 8.0,
    warmup: Warmup = 2.0,
    rounds: Rounds = 5,
    url: Url = DEFAULT_URL,
    pid: Pid = None,
    name: Name = "stack-in-process",
) -> None:
    stack = Stack.find(url, pid)
    deployed = stack.deployed(Kind.LM, model)
    ask = Ask(Task.GENERATE, max_tokens, ignore_eos=True)
    served = LoadTarget("http", stack.url, model=deployed.model, key=api_key())
    extent = Extent(warmup, seconds)
    plan = Plan([served], [Level(streams)], ask, Texts(prompt_words), extent, seed=time.time_ns())
    engine = load_engine(stack.folder(deployed))
    try:
        found = measure(plan, engine, rounds)
    finally:
        engine.close()
    shares = [http / own for http, own in zip(found.over_http, found.in_process, strict=True)]
    rows = [("over HTTP", spread(found.over_http, ".0f")), ("in process", spread(found.in_process, ".0f"))]
    rows.append(("share by round", spread(shares, ".1%")))
    rows.append(("share of the medians", f"{median(found.over_http) / median(found.in_process):.1%}"))
    report = Report(
        f"{deployed.label}, {streams} streams, {ask.described(plan.texts)}; {engine.config}."
        f" {rounds} rounds of {extent.seconds:g} s after {extent.warmup:g} s, in turn. The HTTP client took"
        f" {median(found.client_cpu_share):.1%} of a core. Tokens/s, median (least to most):",
        [(TARGET, median(shares))],
        markdown_table(("", "tokens/s"), rows),
        {**asdict(found), "shares": shares},
    )
    publish(name, report)


@dataclass(frozen=True, slots=True)
class Found:
    """One value for each round; rates in tokens per second."""

    over_http: list[float] = field(default_factory=list)
    in_process: list[float] = field(default_factory=list)
    client_cpu_share: list[float] = field(default_factory=list)


def measure(plan: Plan, engine: Engine, rounds: int) -> Found:
    """The plan's one level over HTTP and in the engine, in turn. Raises LoadError."""
    (level,), (served,) = plan.levels, plan.targets
    found, progress = Found(), Progress()

    def run_http(number: int) -> None:
        done = without_errors(in_event_loop(measure_http(plan, level, served, number, progress)))
        found.over_http.append(done.tokens_per_second)
        found.client_cpu_share.append(done.cpu_seconds / done.seconds)

    def run_engine(number: int) -> None:
        texts = plan.texts.draw(seed_of(plan, level, number))
        loop = EngineLoop(engine, plan.ask, texts, number)
        found.in_process.append(loop.run(level.concurrency, plan.extent))
        progress.say(f"in process at {level.label}: {found.in_process[-1]:.0f} tokens/s")

    for number in range(rounds):
        for turn in (run_http, run_engine) if number % 2 else (run_engine, run_http):
            turn(number)
    return found


@dataclass(slots=True)
class EngineLoop:
    """A closed loop on an engine; the delivery thread records what arrives, and when."""

    engine: Engine
    ask: Ask
    texts: Iterator[str]
    number: int  # of the round: request ids must not repeat
    _arrivals: list[tuple[float, int]] = field(default_factory=list)
    _ended: SimpleQueue[Fault | None] = field(default_factory=SimpleQueue)

    def run(self, streams: int, extent: Extent) -> float:
        """Tokens per second within the window; streams begin as over HTTP. Raises LoadError."""
        ids = count()
        start = time.perf_counter()
        begin = start + extent.warmup
        end = begin + extent.seconds
        due = deque(start + extent.begin(stream, streams) for stream in range(streams))
        left = streams
        while left:
            try:
                fault = self._ended.get(timeout=max(0.0, due[0] - time.perf_counter()) if due else None)
            except Empty:
                due.popleft()
                self._submit(next(ids))
                continue
            if fault is not None:
                raise LoadError(f"the engine in process: {fault.message}")
            if time.perf_counter() < end:
                self._submit(next(ids))
            else:
                left -= 1
        return sum(tokens for at, tokens in self._arrivals if begin <= at <= end) / extent.seconds

    def _submit(self, number: int) -> None:
        parameters = SamplingParameters(
            max_tokens=self.ask.max_tokens,
            temperature=self.ask.temperature,
            ignore_eos=self.ask.ignore_eos,
        )
        request = Request(
            f"{self.number}/{number}",
            next(self.texts),
            parameters=parameters,
            stream=True,
            with_logprob=False,
        )
        self.engine.submit(request, self)

    # What the engine's delivery thread calls

    def send(self, answer: Answer, *, final: bool) -> None:
        if isinstance(answer, Generated):
            tokens = sum(len(choice.token_ids) for choice in answer.choices)
            self._arrivals.append((time.perf_counter(), tokens))
        if final:
            self._ended.put(None)

    def fail(self, fault: Fault) -> None:
        self._ended.put(fault)
